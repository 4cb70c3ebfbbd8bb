package cacheaside

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A Config is written as its one-line form, and read from that, from JSON and from YAML.

// MarshalText returns [Config.String]: without passwords, on purpose.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the one-line form, for environment variables and flags.
func (c *Config) UnmarshalText(text []byte) error {
	parsed, err := ParseConfig(string(text))
	if err == nil {
		*c = parsed
	}
	return err
}

// UnmarshalText reads what [RedisConfig.MarshalText] writes: the one-line form of a Config with its Redis
// part alone.
func (r *RedisConfig) UnmarshalText(text []byte) error {
	c, err := ParseConfig(string(text))
	if err != nil {
		return err
	}
	*r = c.Redis
	only := Config{Backend: c.Backend, Redis: c.Redis}
	if c.String() != only.String() || c.Backend != BackendRueidis && c.Backend != BackendRueidisAside {
		return fieldError("Redis", "a line with other parts", "rueidis://[user:password@]host:port[/db], with parameters of Redis only")
	}
	return nil
}

// UnmarshalJSON reads an object whose names are those of the fields' JSON tags, or a string for
// [RedisConfig.UnmarshalText].
func (r *RedisConfig) UnmarshalJSON(data []byte) error {
	var line string
	if json.Unmarshal(data, &line) == nil && string(data) != "null" {
		return r.UnmarshalText([]byte(line))
	}
	type fields RedisConfig // without this method
	return strictJSON(data, (*fields)(r))
}

// UnmarshalJSON reads an object whose names are those of the one-line form, with Redis' own under
// "redis", and durations as text ("1m30s"); or a string in the one-line form. A duration that is a bare number
// other than zero is an error: its unit would be anyone's guess.
func (c *Config) UnmarshalJSON(data []byte) error {
	if string(data) == "null" { // by convention
		return nil
	}
	var line string
	if json.Unmarshal(data, &line) == nil {
		return c.UnmarshalText([]byte(line))
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(data, &given); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfig, err)
	}
	var parsed Config
	if value, ok := given["redis"]; ok { // first: what stands outside of it, as in the one-line form, goes before
		if err := strictJSON(value, &parsed.Redis); err != nil {
			return fmt.Errorf("%w: redis: %w", ErrInvalidConfig, err)
		}
		delete(given, "redis")
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if err := parsed.setJSON(name, given[name]); err != nil {
			return err
		}
	}
	if _, err := parsed.resolve(); err != nil {
		return err
	}
	*c = parsed
	return nil
}

func (c *Config) setJSON(name string, value json.RawMessage) error {
	f, ok := findField(name)
	if !ok {
		return fieldError("field", quote(name), fieldNames())
	}
	place := f.place(c)
	if _, isDuration := place.(*time.Duration); isDuration {
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = string(value) // a bare number, which is as it would be in the one-line form
		}
		if err := parseField(place, text); err != nil {
			return fieldError(name, quote(text), err.Error())
		}
		return nil
	}
	if err := json.Unmarshal(value, place); err != nil {
		return fieldError(name, "of the wrong JSON type", fmt.Sprintf("%T", place)[1:])
	}
	return nil
}

// UnmarshalYAML reads a mapping whose names are those of the one-line form, with Redis' own under "redis" and
// durations as text ("1m30s"), or a line in the one-line form. It is what gopkg.in/yaml.v3 and others that have
// its interface call; as in JSON, unknown names and bare numbers for durations are errors.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	var line string
	if unmarshal(&line) == nil {
		return c.UnmarshalText([]byte(line))
	}
	var given map[string]any
	if err := unmarshal(&given); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfig, err)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		f, ok := findField(name)
		if !ok && name != "redis" {
			return fieldError("field", quote(name), fieldNames())
		}
		if !ok || given[name] == nil {
			continue
		}
		if _, isDuration := f.place(new(Config)).(*time.Duration); isDuration {
			text := fmt.Sprint(given[name])
			if err := parseField(new(time.Duration), text); err != nil {
				return fieldError(name, quote(text), err.Error())
			}
		}
	}
	type fields Config   // without this method
	parsed := fields(*c) // what the mapping leaves out stays
	if err := unmarshal(&parsed); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfig, err)
	}
	if _, err := Config(parsed).resolve(); err != nil {
		return err
	}
	*c = Config(parsed)
	return nil
}

func strictJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
