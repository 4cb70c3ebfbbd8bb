package redistest

import (
	"strconv"
	"strings"
)

// CommandStats returns how often each command was called since the start or [Server.ResetStats]. Names
// are in lower case, those of subcommands like "client|tracking". The kit's own calls are among them:
// auth, ping, info, config|… and client|…, and what [Server.Command] was asked to send.
func (s *Server) CommandStats() map[string]int64 {
	s.t.Helper()
	stats := map[string]int64{}
	for name, value := range s.info("INFO", "commandstats") {
		calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
		n, err := strconv.ParseInt(calls, 10, 64)
		if err != nil {
			s.fatalf("INFO commandstats: %s: %s", name, value)
		}
		stats[strings.TrimPrefix(name, "cmdstat_")] = n
	}
	return stats
}

// ResetStats makes [Server.CommandStats] count from zero again.
func (s *Server) ResetStats() {
	s.t.Helper()
	s.Must("CONFIG", "RESETSTAT")
}

// Clients returns how many connections the server has, without the kit's own.
func (s *Server) Clients() int {
	s.t.Helper()
	list, _ := s.Must("CLIENT", "LIST").(string)
	clients := 0
	for line := range strings.Lines(list) {
		if !strings.Contains(line, " user="+adminName+" ") {
			clients++
		}
	}
	return clients
}

// Accepted returns how many connections the server has accepted since it was started, the kit's own too: each
// of its calls makes one.
func (s *Server) Accepted() int {
	s.t.Helper()
	n, err := strconv.Atoi(s.info("INFO", "stats")["total_connections_received"])
	if err != nil {
		s.fatalf("INFO stats: %v", err)
	}
	return n
}

// info runs a command that answers with lines of name:value.
func (s *Server) info(args ...string) map[string]string {
	s.t.Helper()
	text, _ := s.Must(args...).(string)
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}
