// Package debug shows what caches do, on a page for people and as JSON for programs, in the way of
// net/http/pprof: hit ratios, how long fetches take, fetches under way, evictions, the state of the backend
// and, if it is told to, the hottest keys.
//
//	page := debug.New(debug.Options{})
//	users, err := cacheaside.NewMemory[User](cfg, cacheaside.WithObserver(page))
//	page.Add(users)
//	internal.Handle("/debug/cacheaside", page) // where only operators get
//
// It mounts itself nowhere: what it shows is for operators. The page needs nothing from elsewhere, runs under
// a strict Content-Security-Policy, and changes nothing unless [Options.AllowClear] is set. It starts no
// goroutine, and an idle process pays nothing for it: the figures of the last ten minutes are noted when a
// fetch ends or somebody looks.
package debug
