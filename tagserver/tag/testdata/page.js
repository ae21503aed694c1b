// A page, as much of one as the tag uses. Time stands still until step(ms).
var now = 1764063000000, timers = [], sent = [], beacons = [], listeners = {}, store = {}, warnings = [];
var status = 200, retryAfter = null, offline = false, audiences = [{ id: 'a', slug: 'a' }], brokenStorage = false;
Date.now = function () { return now; };
function setTimeout(f, ms) { var a = [].slice.call(arguments, 2); timers.push({ f: function () { f.apply(null, a); }, at: now + ms, id: timers.length + 1 }); return timers.length; }
function clearTimeout(id) { timers.forEach(function (t) { if (t.id === id) t.f = null; }); }
function step(ms) {
  now += ms;
  timers.slice().forEach(function (t) { if (t.f && t.at <= now) { var f = t.f; t.f = null; f(); } });
}
var console = { log: function () {}, warn: function (m) { warnings.push(m); } };
function URL(u) {
  this.origin = (/^https?:\/\/[^\/]+/.exec(u) || ['null'])[0];
  this.searchParams = (u.split('?')[1] || '').split('&').filter(Boolean).map(function (p) { return p.split('=').map(decodeURIComponent); });
}
function Blob(parts, o) { this.text = parts.join(''); this.type = o.type; }
var location = { href: 'https://shop.example/a?x=1#frag' };
var script = { src: 'https://data.example/t/1/ebb.js', dataset: { site: 'shop' } };
function on(name, f) { (listeners[name] = listeners[name] || []).push(f); }
function fire(name, e) { (listeners[name] || []).forEach(function (f) { f(e || {}); }); }
var document = {
  currentScript: script, referrer: 'https://search.example/?q=1', baseURI: location.href, visibilityState: 'visible',
  querySelector: function () { return null; }, addEventListener: on
};
var navigator = { onLine: true, sendBeacon: function (url, blob) { beacons.push({ url: url, type: blob.type, body: JSON.parse(blob.text) }); return true; } };
var byte = 0;
var window = {
  history: { pushState: function (s, t, u) { location.href = u; return 'pushed'; }, replaceState: function (s, t, u) { location.href = u; } },
  location: location, addEventListener: on,
  crypto: { getRandomValues: function (a) { for (var i = 0; i < a.length; i++) a[i] = byte++ & 255; return a; } },
  get localStorage() {
    if (brokenStorage) throw new Error('denied');
    return {
      getItem: function (k) { return k in store ? store[k] : null; },
      setItem: function (k, v) { store[k] = String(v); },
      removeItem: function (k) { delete store[k]; }
    };
  },
  fetch: function (url, o) {
    sent.push({ url: url, method: (o && o.method) || 'GET', keepalive: o && o.keepalive, credentials: o && o.credentials,
      type: o && o.headers && o.headers['Content-Type'], headers: o && o.headers ? Object.keys(o.headers).length : 0, body: o && o.body ? JSON.parse(o.body) : null });
    if (offline) return Promise.reject(new Error('offline'));
    var st = status;
    return Promise.resolve({ status: st, ok: st < 300, headers: { get: function () { return retryAfter; } }, json: function () { return Promise.resolve(st < 300 ? { audiences: audiences } : { code: 'no' }); } });
  }
};
var crypto = window.crypto;
window.top = window.parent = window.frames = window;
// The snippet's stub, as a site has it, over the name that the page calls.
window.ebb = function () { (window.ebb.q = window.ebb.q || []).push(arguments); };
function ebb() { return window.ebb.apply(null, arguments); }
