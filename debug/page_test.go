package debug

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cacheaside/cacheaside"
	"github.com/cacheaside/cacheaside/internal/redistest"
)

// The page is looked at with a loaded service behind it, in both colour schemes, on a wide and a narrow
// screen, by a real browser.
func TestPageIsReadableInBothColourSchemes(t *testing.T) {
	requireBrowser(t)
	redistest.Require(t)
	s := newService(t)
	server := httptest.NewServer(s.page)
	defer server.Close()
	s.load(6 * time.Second)
	defer s.stop()
	b := openBrowser(t)
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int{1280, 390} {
			name := fmt.Sprintf("%s-%d", scheme, width)
			b.open(server.URL+"/debug/cacheaside", scheme, width)
			checkScheme(t, b.screenshot(name), scheme)
			checkContrast(b)
			checkLayout(b, width)
		}
	}
	checkText(b)
	checkLive(b)
	checkClear(b, "c2")
	require.Empty(t, b.complaints())
}

// checkScheme checks that the page is as light or dark as was asked for, and that there is something on it.
func checkScheme(t *testing.T, data []byte, scheme string) {
	t.Helper()
	picture, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	light, colours := survey(picture)
	if scheme == "light" {
		require.Greater(t, light, 0.8)
	} else {
		require.Less(t, light, 0.25)
	}
	require.Greater(t, colours, 100)
}

// survey returns how light a picture is on the whole, from 0 to 1, and how many colours it has.
func survey(p image.Image) (light float64, colours int) {
	seen := make(map[[3]uint32]bool)
	size := p.Bounds()
	for y := size.Min.Y; y < size.Max.Y; y += 5 {
		for x := size.Min.X; x < size.Max.X; x += 5 {
			r, g, b, _ := p.At(x, y).RGBA()
			light += float64(r+g+b) / (3 * 0xffff)
			seen[[3]uint32{r >> 8, g >> 8, b >> 8}] = true
		}
	}
	return light / float64(((size.Dx()+4)/5)*((size.Dy()+4)/5)), len(seen)
}

// checkContrast checks that every text stands out from what is behind it by the 4.5 to 1 that the Web Content
// Accessibility Guidelines ask for, and every line of a picture by 3 to 1.
func checkContrast(b *browser) {
	b.t.Helper()
	var faint []string
	b.evaluate(`(() => {
		const parse = c => { const m = c.match(/[\d.]+/g).map(Number); return { rgb: m.slice(0, 3), a: m.length > 3 ? m[3] : 1 }; };
		const light = rgb => { const [r, g, b] = rgb.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
		const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
		const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a === 1) return c.rgb; } return [255, 255, 255]; };
		const faint = [];
		for (const d of document.querySelectorAll("details")) d.open = true;
		const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
		for (let n; n = walk.nextNode();) {
			const e = n.parentElement;
			if (!n.data.trim() || !e.checkVisibility() || e.closest("script, style")) continue;
			const r = ratio(parse(getComputedStyle(e).color).rgb, behind(e));
			if (r < 4.5) faint.push(n.data.trim() + " " + r.toFixed(2));
		}
		for (const e of document.querySelectorAll(".spark .line")) {
			const r = ratio(parse(getComputedStyle(e).stroke).rgb, behind(e));
			if (r < 3) faint.push(e.getAttribute("class") + " " + r.toFixed(2));
		}
		return faint;
	})()`, &faint)
	require.Empty(b.t, faint)
}

// checkLayout checks that the page fits the width, and that no text is cut off.
func checkLayout(b *browser, width int) {
	b.t.Helper()
	var wide float64
	b.evaluate(`document.documentElement.scrollWidth`, &wide)
	require.LessOrEqual(b.t, wide, float64(width))
	var cut []string
	b.evaluate(`[...document.querySelectorAll(".value, .detail, h2, h3, .pill")]
		.filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline").map(e => e.textContent)`, &cut)
	require.Empty(b.t, cut)
}

// checkText checks that what the page should say is there to be seen.
func checkText(b *browser) {
	b.t.Helper()
	var text string
	b.evaluate(`document.body.innerText`, &text)
	for _, says := range []string{"users", "orders", "sessions", "Hit ratio", "Fetch time", "backend does not answer", hostileKey, "user:000", "rueidis-aside"} {
		require.Contains(b.t, text, says)
	}
	var pictures int
	b.evaluate(`document.querySelectorAll(".spark .line").length`, &pictures)
	require.GreaterOrEqual(b.t, pictures, 3*6)
}

// checkLive checks that the page goes on by itself, and leaves alone what its reader has opened and closed.
func checkLive(b *browser) {
	b.t.Helper()
	var was string
	b.evaluate(`(() => {
		document.getElementById("c0-counters").open = true;
		document.getElementById("c1-keys").open = false;
		document.querySelector("#c0-counters summary").focus();
		return document.getElementById("time").dateTime;
	})()`, &was)
	b.eventually(fmt.Sprintf(`document.getElementById("time").dateTime !== %q`, was))
	b.eventually(`document.getElementById("c0-counters").open && !document.getElementById("c1-keys").open`)
	b.eventually(`document.activeElement.matches("#c0-counters summary")`)
	b.eventually(`document.getElementById("lost").hidden`)
}

// checkClear checks that the button of the cache "users", whose parts have this id, works and leads back to the
// page.
func checkClear(b *browser, id string) {
	b.t.Helper()
	var clicked bool
	b.evaluate(fmt.Sprintf(`setTimeout(() => document.getElementById("%s-clear").click()), true`, id), &clicked)
	b.eventually(fmt.Sprintf(`location.href.endsWith("/debug/cacheaside?") && document.getElementById("%s-name")?.textContent === "users"`, id))
}

// hostileKey would run a script, if the page were not careful.
const hostileKey = `<img src=x onerror=alert(1)>`

// service is a service with three caches, under load.
type service struct {
	t        *testing.T
	page     *Handler
	redis    *redistest.Server
	users    *cacheaside.Client[int]
	sessions *cacheaside.Client[int]
	orders   *cacheaside.Client[int]
	stop     func() // ends the load
}

// speed is how many times as fast the page's clock goes: ten minutes of load take some seconds.
const speed = 100

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, page: New(Options{ShowKey: PlainKeys, AllowClear: true}), redis: redistest.Start(t)}
	begun := s.page.begun
	s.page.now = func() time.Time { return begun.Add(speed * time.Since(begun)) }
	aside, err := cacheaside.ParseConfig(s.redis.URL(cacheaside.BackendRueidisAside, "max_entries=5000"))
	require.NoError(t, err)
	s.users = s.open(cacheaside.Config{MaxEntries: 2000}, "users")
	s.sessions = s.open(cacheaside.Config{StaleFor: time.Minute, StaleIfError: time.Minute, MaxEntries: 50_000}, "sessions")
	s.orders = s.open(aside, "orders")
	return s
}

func (s *service) open(cfg cacheaside.Config, name string) *cacheaside.Client[int] {
	cfg.Name = name
	c, err := cacheaside.Open[int](s.t.Context(), cfg, cacheaside.WithObserver(s.page))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, c.Close()) })
	s.page.Add(c)
	return c
}

// load keeps the service busy until stop, and returns when Redis has gone away after most of d.
func (s *service) load(d time.Duration) {
	ctx, cancel := context.WithCancel(s.t.Context())
	begun := time.Now()
	share := func() float64 { return time.Since(begun).Seconds() / d.Seconds() } // of the time that is over
	var all sync.WaitGroup
	s.stop = func() {
		cancel()
		all.Wait()
	}
	for range 8 {
		all.Go(func() { s.visit(ctx, s.users, 20_000, share, s.query(3*time.Millisecond, share, 0)) })
	}
	for range 4 {
		all.Go(func() { s.visit(ctx, s.sessions, 3000, share, s.query(8*time.Millisecond, share, 0.05)) })
		all.Go(func() { s.visit(ctx, s.orders, 4000, share, s.query(5*time.Millisecond, share, 0)) })
	}
	<-time.After(d * 85 / 100)
	s.redis.Kill()
	<-time.After(d * 15 / 100)
}

// visit asks a cache for keys of which few are asked for often.
func (s *service) visit(ctx context.Context, c *cacheaside.Client[int], keys uint64, share func() float64, fetch cacheaside.FetchFunc[int]) {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(rand.Uint64(), 1)), 1.1, 8, keys)
	for ctx.Err() == nil {
		for range 1 + int(20*(1+math.Sin(9*share()))) {
			key := fmt.Sprintf("user:%05d", zipf.Uint64())
			if rand.IntN(50) == 0 {
				key = hostileKey
			}
			_, _ = c.GetWithFetch(ctx, key, time.Second+time.Duration(rand.IntN(3000))*time.Millisecond, fetch) // its errors are part of the load
		}
		<-time.After(2 * time.Millisecond)
	}
}

var errSource = errors.New("the source is tired")

// query is a source that takes some time, more towards the middle of the load, and fails now and then.
func (s *service) query(typical time.Duration, share func() float64, failing float64) cacheaside.FetchFunc[int] {
	return func(ctx context.Context, _ string) (int, error) {
		slower := 1 + 2*math.Exp(-80*math.Pow(share()-0.55, 2))
		select {
		case <-time.After(time.Duration(rand.ExpFloat64() * slower * float64(typical))):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if rand.Float64() < failing {
			return 0, errSource
		}
		return 1, nil
	}
}
