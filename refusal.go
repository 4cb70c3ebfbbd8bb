package cacheaside

import (
	"errors"
	"strings"

	"github.com/redis/rueidis"
)

// An error that Redis replies may concern one command, this connection, or the server as it is configured. This
// file tells them apart, by the codes and words of Redis 6 to 8 and of Valkey.

// refusesConnection reports whether a reply refuses the connection itself. Such a reply comes in the handshake,
// and the client then returns it for each command that it has not sent, after a dial for each.
func refusesConnection(re *rueidis.RedisError) bool {
	text := re.Error()
	code, _, _ := strings.Cut(text, " ")
	switch code {
	case "WRONGPASS", "NOAUTH", "DENIED":
		return true
	case "NOPERM":
		return containsAny(text, "'select'", "'hello'", "'auth'", "'client|setname'")
	}
	// The code of the others is ERR, which the client leaves out.
	return containsAny(text, "max number of clients", "DB index is out of range", "SELECT is not allowed", "invalid password",
		"without any password configured", "no password is set")
}

// isRefused reports whether err says that a connection cannot be made since Redis, or the function that has the
// credentials, refuses, or since Redis does not track what it reads: trying again soon is unlikely to help.
func isRefused(err error) bool {
	var re *rueidis.RedisError
	var noCredentials *credentialsError
	return errors.As(err, &noCredentials) || errors.As(err, &re) && refusesConnection(re) || errors.Is(err, rueidis.ErrNoCache)
}

// credentialsError is the error of the user's AuthCredentialsFn.
type credentialsError struct{ cause error }

func (e *credentialsError) Error() string { return "AuthCredentialsFn: " + e.cause.Error() }

func (e *credentialsError) Unwrap() error { return e.cause }

// wantsMaster reports whether a reply says that the server is a replica: of writes, also in scripts, where
// Redis 6 puts the code in the middle; and of reads, if the replica has lost its master.
func wantsMaster(re *rueidis.RedisError) bool {
	return containsAny(re.Error(), "READONLY ", "MASTERDOWN ")
}

// isUnknownCommand reports whether a reply says that the server, or a proxy before it, does not have a command.
func isUnknownCommand(re *rueidis.RedisError) bool {
	return containsAny(strings.ToLower(re.Error()), "unknown command", "unsupported command", "unknown redis command")
}

// isClusterReply reports whether a reply is one that only the node of a cluster gives.
func isClusterReply(re *rueidis.RedisError) bool {
	code, _, _ := strings.Cut(re.Error(), " ")
	return code == "MOVED" || code == "ASK" || code == "CROSSSLOT"
}

func containsAny(text string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
