//go:build !unix

package redistest

import "os"

// There is no redis-server here, so that no test gets as far as sending one. The package still builds.
var freezeSignal, thawSignal, endSignal = os.Interrupt, os.Interrupt, os.Interrupt
