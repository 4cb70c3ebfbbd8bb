// Package cacheaside is a cache between a service and its source of data. It keeps what the source has
// returned, in this process or in Redis, and sees to it that a value which is not there is fetched once,
// however many ask for it.
//
//	users, err := cacheaside.Open[User](ctx, cfg)
//	user, err := users.GetWithFetch(ctx, id, 10*time.Minute, repository.Find)
//
// # Where values are kept
//
// [Config] says that, and one line of text can say it ([ParseConfig]):
//
//	memory://                            in this process
//	rueidis://host:6379                  in Redis, shared by all processes
//	rueidis-aside://host:6379            in Redis, with coherent copies in this process, and
//	                                     one fetch for all processes
//	noop://                              nowhere; fetches are still shared
//
// Nothing else of a program depends on it. [Open] makes one cache with a backend of its own; [Connect] and
// [New] make several on one connection.
//
// # What happens on a look-up
//
//  1. A fresh value is returned. A remembered "not found" is returned as [ErrNotFound].
//  2. A value past its ttl by no more than [Config.StaleFor] is returned as well, and one fetch in the
//     background replaces it. So does one past [Config.RefreshAhead] of its ttl.
//  3. Otherwise the caller joins the fetch of its key that is under way, or starts one, and waits for it or
//     for the end of its own context, whichever comes first.
//  4. The fetch runs apart from its callers. On rueidis-aside it first takes a lease, so that no other
//     process fetches the same key meanwhile. What it returns is kept if the key was neither set nor
//     deleted in between.
//  5. If it fails, callers get its error, unchanged, or a value that is past its ttl by no more than
//     [Config.StaleIfError].
//
// # Keeping the cache right
//
// Write the source first, then [Client.Delete] the key; or let [Client.Mutate] do both, which also holds
// when the write's outcome is not known. A fetch that began before is not kept.
//
// A list, a page or a count is made of many rows: give it a tag in its fetch ([Tag]), or by [WithTags], and let a write
// name the tag ([Client.InvalidateTags]). [Backend.Mutate] takes keys of several caches and tags together.
//
// Values are shared: on the backends that keep them in this process, everybody gets the same one. Take
// them as read-only, or use [WithClone].
//
// A fetch runs with the values of the context of whoever asked first, and its result goes to everybody
// who waits. What depends on the caller, such as a tenant or a user's rights, belongs in the key; see
// [WithFetchContext]. If that context is not one of the standard library's, such as a *gin.Context, the fetch
// finds no values in it once its caller has returned.
//
// A function that captures the key is made anew for every look-up, also for those that hit. That is why
// [FetchFunc] is given the key; [Client.Bind] makes the right thing easy.
package cacheaside
