// The browser tag of Ebb. It sends what the page tells it, to the edge that
// served it, and nothing before the visitor agreed. README.md has its calls and
// settings.
import { ask } from './ask';
import { listen, says, silent, strings, verdict } from './consent';
import { d, json, name, now, on, parse, safely, settings, site, w } from './page';
import { allow, batch, flush, hold, post, watch } from './send';
import { MAX, read, write } from './store';

type Props = Record<string, unknown>;

let granted: boolean | undefined;
let out: unknown; // opted out
const asked: ((list: unknown[]) => void)[] = []; // wait for consent
const watchers: ((granted?: boolean) => void)[] = [];
let last: unknown; // address of the last page view
let attributes: Props; // what all events carry

/** address is the page's, as far as it is the edge's business. */
function address(): string {
  const [page, fragment] = location.href.split('#').map((a: string) => (settings.query == 'keep' ? a : a.split('?')[0]));
  // In hash mode the fragment is a path, which the edge would not see.
  return settings.spa == 'hash' && fragment ? page.replace(/\/?$/, '/') + fragment.replace(/^!?\/?/, '') : page;
}

function add(kind: string, name?: string, props?: Props, id?: string) {
  const all: Props = { ...attributes, ...props };
  const kept: Props = {};
  Object.keys(all)
    .slice(0, 32)
    .forEach((k) => {
      // Within what the edge takes, in bytes.
      const v: any = all[k];
      kept[k.slice(0, 64)] = v?.slice ? v.slice(0, /[^ -~]/.test(v) ? 85 : 256) : v;
    });
  hold({
    // 128 random bits. Always with letters: a long run of digits looks like a
    // card number.
    id: id || 'e' + crypto.getRandomValues(new Uint16Array(8)).join('e'),
    t: now(),
    kind,
    name: name?.slice(0, 64),
    url: address(),
    ref: d.referrer.split('?')[0],
    props: parse(json(kept)) // as they are now
  });
}

function page(props?: Props) {
  const at = address();
  if (props || at != last) {
    last = at;
    add('page', undefined, props);
  }
}

/** track is one event, or one for each of several properties. */
function track(name: string, props?: Props | Props[], id?: string) {
  ([] as any[]).concat(props).forEach((p) => add('track', name, p, id));
}

/** decide acts on what is known of consent now. */
function decide() {
  const was = granted;
  granted = !out && verdict();
  if (granted !== was) {
    const e = read();
    if (granted === false && !out && (e.y || was)) {
      // There may be an ID: the edge takes it away and erases what it knows.
      write();
      says.page = says.page || false;
      post('/v1/e', batch([]));
    }
    if (granted) write({ ...e, y: 1 });
    allow(granted);
    watchers.forEach((f) => safely(f, granted));
  }
  if (granted !== undefined || silent) {
    asked.splice(0).forEach(audiences);
  }
}

function audiences(then: (list: unknown[]) => void) {
  if (granted) ask(then);
  else if (granted === undefined && !silent) asked.push(then);
  else safely(then, []);
}

/** tell tells the edge of an opt-out, on later pages too until it has heard. */
const tell = async () => {
  if ((await post('/v1/optout')).ok && out) write({ o: 2 });
};

const commands: Record<string, (...a: any[]) => any> = {
  page,
  track,
  set: (props) => (attributes = { ...attributes, ...props }),
  // With an ID of its own, such as an order's, it counts once.
  conversion: (name, props, id) => add('conversion', name, props, id),
  consent(yes, more) {
    says.page = yes === true;
    Object.assign(strings, more);
    decide();
  },
  audiences,
  watch(f) {
    watchers.push(f);
    f(granted);
  },
  flush,
  // More commands, from a file of its own; calls of them may have come before.
  use(more) {
    Object.assign(commands, more);
    missed.splice(0).forEach((a) => ebb(...a));
  },
  optout() {
    out = 1;
    write({ o: 1 });
    decide();
    return tell();
  },
  async optin() {
    out = 0;
    write();
    await post('/v1/optin');
    decide();
  }
};

let missed: any; // calls of commands that are not there

function ebb(command: string, ...args: any[]) {
  commands[command] ? safely(commands[command], ...args) : missed.length < MAX && missed.push([command, ...args]);
}
ebb.v = '1.3.0';

/** declared is an event that the page's own HTML declares. */
function declared(e: any) {
  const el = e.target.closest('[data-ebb-event]');
  // A form is sent, anything else is clicked.
  if (!el || !el.submit == (e.type == 'submit')) return;
  const props: Props = {};
  for (const a of el.attributes) if (!a.name.indexOf('data-ebb-p-')) props[a.name.slice(11)] = a.value;
  track(el.dataset.ebbEvent, props);
}

function start() {
  const stub = w[name];
  if (stub?.v) return console.warn('ebb: twice');
  w[name] = ebb;
  out = read().o;
  if (out == 1) tell();
  watch();
  missed = stub?.q || [];
  ebb('use');
  if (settings.auto != 'false') {
    last || page();
    const soon = () => setTimeout(safely, 0, page); // the page's own handler comes first
    if (settings.spa != 'off') {
      ['pushState', 'replaceState'].forEach((m) =>
        safely(() => {
          const before = w.history[m];
          w.history[m] = function () {
            soon();
            return before.apply(this, arguments);
          };
        })
      );
      on(w, 'popstate', soon);
      on(w, 'hashchange', soon); // says nothing new unless in hash mode
    }
    on(w, 'pageshow', (e) => e.persisted && page({})); // whatever its address
  }
  on(d, 'click', declared);
  on(d, 'submit', declared);
  if ((settings.consent || 'auto') == 'auto') listen(decide);
  decide();
}

if (site) {
  // A page that is not shown yet is no visit: until it is, the stub collects.
  if (d.prerendering) on(d, 'prerenderingchange', start);
  else safely(start);
}
