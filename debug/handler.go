package debug

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cacheaside/cacheaside"
)

// Cache is what the page shows; every [cacheaside.Client] is one.
type Cache interface {
	Config() cacheaside.Config
	Stats() cacheaside.Stats
	SampleKeys(ctx context.Context, while time.Duration, most int) cacheaside.KeySample
	Clear(ctx context.Context) error
}

// Options says what a page may show and do.
type Options struct {
	// ShowKey returns how a hot key of a cache is shown: [PlainKeys], [HashedKeys], or a function that blots
	// out what must not be seen. Each look at the page then samples the look-ups of the caches for a tenth
	// of a second, during which hits cost more; see [cacheaside.Client.SampleKeys]. Defaults to nil: no key
	// is looked at.
	ShowKey func(cache, key string) string

	// AllowClear lets whoever sees the page clear a cache. Defaults to false: the page changes nothing.
	AllowClear bool
}

// PlainKeys shows keys as they are. Keys often hold who a user is, so mind who sees the page.
func PlainKeys(_, key string) string { return key }

// HashedKeys shows, instead of a key, a code that nobody can turn back without secret, and that whoever
// has it can compute: the first 16 hexadecimal digits of HMAC-SHA-256 over the key.
func HashedKeys(secret []byte) func(cache, key string) string {
	secret = slices.Clone(secret)
	return func(_, key string) string {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(key))
		return hex.EncodeToString(mac.Sum(nil)[:8])
	}
}

// Handler is the page. It is an [http.Handler] to be mounted, and an observer to be given to the caches that
// it is to show: without that, it knows nothing of how long their fetches take.
type Handler struct {
	options Options
	now     func() time.Time
	begun   time.Time
	origin  *http.CrossOriginProtection

	mu     sync.RWMutex
	caches map[string]*series // by name
}

var (
	_ http.Handler        = (*Handler)(nil)
	_ cacheaside.Observer = (*Handler)(nil)
)

// New returns a page without caches.
func New(o Options) *Handler {
	return &Handler{
		options: o,
		now:     time.Now,
		begun:   time.Now(),
		origin:  http.NewCrossOriginProtection(),
		caches:  make(map[string]*series),
	}
}

// Add shows c. Caches on one page need different names: a further one of the same name takes the first
// one's place.
func (h *Handler) Add(c Cache) {
	name := c.Config().Name
	s := newSeries(c, h.now())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.caches[name] = s
}

// Remove takes the cache of this name off the page.
func (h *Handler) Remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.caches, name)
}

// Observe notes how long fetches take.
func (h *Handler) Observe(e cacheaside.Event) {
	if e.Kind != cacheaside.EventFetch {
		return
	}
	if s := h.cache(e.Cache); s != nil {
		s.fetched(e.Duration, h.now())
	}
}

func (h *Handler) cache(name string) *series {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.caches[name]
}

// ServeHTTP answers a GET with the page, or with JSON if the request asks for that by ?format=json or in its
// Accept header.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	// Nothing stricter: under "no-referrer" browsers send the page's own form with "Origin: null", and over plain
	// HTTP there is nothing else by which to tell it from a form of another site.
	header.Set("Referrer-Policy", "same-origin")
	header.Add("Vary", "Accept")
	switch {
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		h.show(w, r)
	case r.Method == http.MethodPost && h.options.AllowClear:
		h.clear(w, r)
	default:
		h.refuse(w)
	}
}

// refuse answers a request of a method that the page does not have.
func (h *Handler) refuse(w http.ResponseWriter) {
	allowed, text := "GET, HEAD", "this page only shows"
	if h.options.AllowClear {
		allowed, text = "GET, HEAD, POST", "this page shows, and clears by POST"
	}
	w.Header().Set("Allow", allowed)
	http.Error(w, text, http.StatusMethodNotAllowed)
}

func (h *Handler) show(w http.ResponseWriter, r *http.Request) {
	report := h.report(r.Context())
	var body bytes.Buffer
	var err error
	if wantsJSON(r) {
		w.Header().Set("Content-Type", "application/json")
		err = json.NewEncoder(&body).Encode(report)
	} else {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy(h.options.AllowClear))
		err = page.Execute(&body, h.view(report))
	}
	if err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(body.Bytes()) // the visitor has left
}

// wantsJSON reports whether a request asks for JSON rather than a page. Of the two, what Accept names first wins:
// weights are not compared, but what has the weight zero is refused, and so counts as not named.
func wantsJSON(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "json"
	}
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		kind, parameters, _ := strings.Cut(strings.ToLower(part), ";")
		if zeroWeight.MatchString(parameters) {
			continue
		}
		switch strings.TrimSpace(kind) {
		case "application/json":
			return true
		case "text/html", "application/xhtml+xml":
			return false
		}
	}
	return false
}

// zeroWeight finds a weight of zero among the parameters of a part of Accept (RFC 9110, section 12.4.2).
var zeroWeight = regexp.MustCompile(`(^|;)\s*q=0(\.0*)?\s*(;|$)`)

// clear clears the cache that a form names. Forms of other sites are refused.
func (h *Handler) clear(w http.ResponseWriter, r *http.Request) {
	if err := h.origin.Check(r); err != nil {
		http.Error(w, "not from another site", http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	s := h.cache(r.PostFormValue("clear"))
	if s == nil {
		http.Error(w, "no such cache", http.StatusNotFound)
		return
	}
	if err := s.cache.Clear(r.Context()); err != nil {
		http.Error(w, "the cache could not be cleared", http.StatusBadGateway)
		return
	}
	w.Header().Set("Location", "?") // here, wherever that is mounted
	w.WriteHeader(http.StatusSeeOther)
}
