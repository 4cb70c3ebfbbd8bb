package redistest

import "fmt"

// An Option changes how a server is started.
type Option func(*options)

type options struct {
	args     []string
	users    []user
	password string
	tls      bool
	socket   bool
	cluster  bool

	// keys are used in place of new ones if the server is to speak TLS.
	keys *authority

	// config, if it is set, returns what the configuration file should hold. It is called before every
	// start, because a sentinel writes its file anew.
	config func() string
}

type user struct {
	name  string
	rules []string
}

// Args adds arguments to the command line of redis-server, after the kit's own, which they override:
//
//	redistest.Start(t, redistest.Args("--maxclients", "10"))
func Args(args ...string) Option {
	return func(o *options) { o.args = append(o.args, args...) }
}

// User adds an ACL user, who is on and may do what the rules say, for example
//
//	redistest.User("reader", ">secret", "~*", "&*", "+@all", "-set")
//
// [Server.URL] logs in as the first user that was added.
func User(name string, rules ...string) Option {
	return func(o *options) { o.users = append(o.users, user{name, rules}) }
}

// Password is what the default user must log in with. Defaults to none.
func Password(password string) Option {
	return func(o *options) { o.password = password }
}

// TLS makes the server speak TLS only, with a certificate from an authority made for this test, which
// [Server.TLSConfig] trusts.
func TLS() Option {
	return func(o *options) { o.tls = true }
}

// UnixSocket makes the server listen on its unix socket only, so that a test which passes can't have
// gone through TCP.
func UnixSocket() Option {
	return func(o *options) { o.socket = true }
}

func newOptions(opts []Option) options {
	var o options
	for _, option := range opts {
		option(&o)
	}
	return o
}

// check returns what is wrong with the combination of options.
func (o *options) check() error {
	switch {
	case o.tls && o.socket:
		return fmt.Errorf("redistest: TLS and UnixSocket exclude each other")
	case o.cluster && o.socket:
		return fmt.Errorf("redistest: a cluster's nodes can't be reached by unix sockets")
	}
	return nil
}

// credentials returns the user and password a client should log in with, empty for the default user
// without a password.
func (o *options) credentials() (name, password string) {
	if len(o.users) == 0 {
		return "", o.password
	}
	for _, rule := range o.users[0].rules {
		if rule != "" && rule[0] == '>' {
			password = rule[1:]
		}
	}
	return o.users[0].name, password
}
