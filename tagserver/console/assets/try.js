// What the test page's buttons do. It is the page's own script, as a site has
// one: the tag is called by its queue, before and after it has loaded.
(function () {
  'use strict';
  window.ebb = window.ebb || function () { (ebb.q = ebb.q || []).push(arguments); };
  var said = document.getElementById('said');
  var at = document.getElementById('at');
  var top = at.dataset.top;
  function say(text) { said.textContent = text; }
  function props() {
    var out = {};
    document.getElementById('props').value.split('\n').forEach(function (line) {
      var i = line.indexOf('=');
      if (i > 0) out[line.slice(0, i).trim()] = line.slice(i + 1).trim();
    });
    return out;
  }
  var acts = {
    agree: function () { ebb('consent', true); say('The page said: agreed. What waited is being sent.'); },
    refuse: function () { ebb('consent', false); say('The page said: refused. Nothing is sent from now on.'); },
    view: function () {
      var path = at.value.charAt(0) === '/' ? at.value : '/' + at.value;
      history.pushState(null, '', top + path);
      say('The page is now ' + path + '; the tag counts a page view by itself.');
    },
    track: function () { ebb('track', document.getElementById('name').value, props()); ebb('flush'); say('Sent as a track event, if the visitor agreed.'); },
    order: function () { ebb('conversion', 'order', { value: 59, currency: 'EUR' }); ebb('flush'); say('Sent as a conversion, if the visitor agreed.'); },
    ask: function () {
      ebb('audiences', function (list) {
        say(list.length ? 'In: ' + list.map(function (a) { return a.slug; }).join(', ') : 'In no audience that pages may see.');
      });
    },
    optout: function () { ebb('optout'); say('Opted out: the ID of this browser is erased.'); },
    optin: function () { ebb('optin'); say('Opted in again; agree to be counted.'); }
  };
  document.addEventListener('click', function (e) {
    var b = e.target.closest('[data-act]');
    if (b) acts[b.dataset.act]();
  });
  document.addEventListener('submit', function (e) {
    if (e.target.id !== 'walk') return;
    e.preventDefault();
    acts.view();
  });
})();
