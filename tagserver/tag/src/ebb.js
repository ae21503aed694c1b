// The browser tag of Ebb. It sends what the page tells it, to the edge that
// served it, and nothing before the visitor agreed:
//
//   <script>window.ebb=window.ebb||function(){(ebb.q=ebb.q||[]).push(arguments)}</script>
//   <script async src="https://data.shop.example/t/1/ebb.js" data-site="shop"></script>
//   ebb('consent', true)            the visitor agreed (false: refused, or withdrew)
//   ebb('page', props)              a page view; the first one comes by itself
//   ebb('track', 'add_to_cart', {sku: 'a-1'})
//   ebb('audiences', function (list) { … })   [{id, slug}, …], [] if there are none
//   ebb('flush'), ebb('optout'), ebb('optin')
//
// data-host: another origin of the edge; data-auto="false": no page view by
// itself. It keeps no ID, reads no cookie, and never throws into the page.
(function (w, d, n) {
  var MAX = 50; // events held: in memory only
  var script = d.currentScript || d.querySelector('script[data-site][src*="/ebb.js"]');
  if (!script) return;
  var site = script.getAttribute('data-site');
  var host = script.getAttribute('data-host') || new URL(script.src, d.baseURI).origin;
  var auto = script.getAttribute('data-auto') !== 'false';
  var KEY = 'ebb:' + site; // a mark that the visitor agreed here; no ID

  var held = []; // events that wait for consent, for the timer, or for a retry
  var asked = []; // callbacks of audiences that wait for consent
  var granted; // undefined: not asked yet
  var strings = {}; // what a consent platform says, passed on as it is
  var last; // address of the last page view
  var timer;
  var failed = 0; // posts in a row

  function safely(f, x) {
    try {
      return f(x);
    } catch (e) {
      // A page must not break because of us.
    }
  }

  function mark(on) {
    // 'get' is null where there is no mark and undefined where there is no
    // storage.
    return safely(function () {
      var s = w.localStorage;
      var was = s.getItem(KEY);
      if (on) s.setItem(KEY, '1');
      else s.removeItem(KEY);
      return was;
    });
  }

  function id() {
    // Always with a letter: a long run of digits looks like a card number.
    var s = 'e';
    w.crypto.getRandomValues(new Uint8Array(16)).forEach(function (b) {
      s += (b + 256).toString(16).slice(1);
    });
    return s;
  }

  function post(path, body) {
    // text/plain: a simple request, so the browser asks no leave beforehand.
    // A fetch that throws (a page may have replaced it) is one that failed.
    return new Promise(function (done) {
      done(w.fetch(host + path, {
        method: 'POST',
        body: body,
        keepalive: body.length < 6e4,
        credentials: 'include',
        headers: { 'Content-Type': 'text/plain' }
      }));
    });
  }

  function batch(events) {
    strings.granted = granted;
    return JSON.stringify({ site: site, sent: Date.now(), consent: strings, events: events });
  }

  function later(ms) {
    if (!timer) timer = setTimeout(flush, ms);
  }

  function flush() {
    clearTimeout(timer);
    timer = 0;
    if (!granted || !held.length) return;
    var events = held.splice(0, MAX);
    function again(wait) {
      if (granted && failed++ < 5) {
        held = events.concat(held).slice(0, MAX);
        // Twice as long each time, with chance, so that pages do not return
        // together.
        later(1e3 * (wait || Math.pow(2, failed) * (0.5 + Math.random())));
      }
    }
    post('/v1/e', batch(events)).then(function (r) {
      if (r.status > 499 || r.status == 429) again(+r.headers.get('Retry-After'));
      else failed = 0; // taken, or refused for good: sending it again would not help
    }, again.bind(0, 0));
  }

  function leave() {
    // The page may be gone before a fetch is out.
    if (granted && held.length && n.sendBeacon) {
      if (n.sendBeacon(host + '/v1/e', new Blob([batch(held)], { type: 'text/plain' }))) held = [];
    }
    flush();
  }

  function add(kind, name, props) {
    if (granted === false || held.length >= MAX) return;
    var e = { id: id(), t: Date.now(), kind: kind, url: w.location.href.split('#')[0], ref: d.referrer };
    if (name) e.name = name;
    if (props) e.props = JSON.parse(JSON.stringify(props)); // as they are now
    held.push(e);
    if (granted) later(300);
  }

  function answer(cb) {
    if (granted === undefined) return asked.push(cb);
    function done(list) {
      safely(cb, list || []);
    }
    if (!granted) return done();
    var q = '/v1/seg?consent=1&site=' + encodeURIComponent(site);
    ['gpp', 'gpp_sid'].forEach(function (k) {
      if (strings[k]) q += '&' + k + '=' + encodeURIComponent(strings[k]);
    });
    if (strings.tcf) q += '&gdpr_consent=' + encodeURIComponent(strings.tcf);
    if (strings.usp) q += '&us_privacy=' + encodeURIComponent(strings.usp);
    w.fetch(host + q, { credentials: 'include' })
      .then(function (r) {
        return r.ok ? r.json() : {};
      })
      .then(
        function (j) {
          done(j.audiences);
        },
        function () {
          done();
        }
      );
  }

  function refuse() {
    var knew = granted;
    granted = false;
    held = [];
    return mark(0) || knew;
  }

  var commands = {
    page: function (props) {
      var at = w.location.href;
      if (props || at !== last) {
        last = at;
        add('page', 0, props);
      }
    },
    track: function (name, props) {
      add('track', name, props);
    },
    consent: function (yes, more) {
      strings = {};
      ['tcf', 'gpp', 'gpp_sid', 'usp'].forEach(function (k) {
        if (more && more[k]) strings[k] = '' + more[k];
      });
      // Global Privacy Control is a no, whatever the page says.
      if (yes === true && !n.globalPrivacyControl) {
        granted = true;
        mark(1);
        if (held.length) later(0);
      } else if (refuse()) {
        // There may be an ID: the edge takes it away and erases what it knows.
        post('/v1/e', batch([])).catch(function () {});
      }
      asked.splice(0).forEach(answer);
    },
    audiences: answer,
    flush: flush,
    optout: function () {
      refuse();
      asked.splice(0).forEach(answer);
      post('/v1/optout', '').catch(function () {});
    },
    optin: function () {
      post('/v1/optin', '').catch(function () {});
    }
  };

  function ebb(name) {
    var args = [].slice.call(arguments, 1);
    safely(function () {
      commands[name].apply(0, args);
    });
  }
  ebb.v = '1.0.0';

  function start() {
    var q = (w.ebb && w.ebb.q) || [];
    if (w.ebb && w.ebb.v) return; // a second inclusion does nothing
    w.ebb = ebb;
    q.forEach(function (a) {
      ebb.apply(0, a);
    });
    if (auto && last === undefined) ebb('page');
    w.addEventListener('pagehide', function () {
      safely(leave);
    });
    d.addEventListener('visibilitychange', function () {
      if (d.visibilityState == 'hidden') safely(leave);
    });
  }
  // A page that is not shown yet is no visit: until it is, the stub collects.
  if (d.prerendering) d.addEventListener('prerenderingchange', start, { once: true });
  else start();
})(window, document, navigator);
