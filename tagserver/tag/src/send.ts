// Events on their way to the edge.
import { says, strings } from './consent';
import { d, host, json, n, now, on, site, w } from './page';
import { Event, MAX, save, saved, without } from './store';

let held: Event[] = [];
let open: boolean | undefined; // the verdict in force
let timer: any;
let failed = 0; // posts in a row

/** post is a simple request: text/plain asks the browser for no leave beforehand. */
export const post = async (path: string, body?: string): Promise<any> => {
  try {
    return await w.fetch(host + path, { method: 'POST', body, keepalive: true, credentials: 'include', headers: { 'Content-Type': 'text/plain' } });
  } catch (e) {
    return {};
  }
};

export const batch = (events: Event[]) =>
  json({ site, sent: now(), consent: { ...strings, granted: says.page }, events });

/**
 * next takes as many events as go into a batch: 20,000 characters are at most
 * 60,000 bytes, what a browser lets live on after the page and the edge takes.
 */
function next(): Event[] {
  let i = 0;
  for (let room = 2e4; i < held.length; i++) if ((room -= json(held[i]).length) < 0 && i) break;
  return held.splice(0, i);
}

export function hold(e: Event) {
  // Undecided, 20 events wait, in memory only.
  if (open !== false && held.length < (open ? MAX : 20)) held.push(e);
  later(300);
}

function later(ms: number) {
  if (open && !timer) timer = setTimeout(flush, ms);
}

export async function flush(): Promise<void> {
  clearTimeout(timer);
  timer = 0;
  if (!open || !held.length) return;
  const events = next();
  const r = await post('/v1/e', batch(events));
  if (/^(5|408|429|u)/.test(r.status)) {
    if (!open) return;
    // Undefined: nobody answered. It waits here and in storage: twice as long each time, of that any part, so
    // that pages do not come back together.
    save(events, events);
    held = events.concat(held).slice(0, MAX);
    return later(1e3 * (r.headers?.get('Retry-After') % 301 || Math.min(60, 2 ** ++failed) * Math.random()));
  }
  // Taken, or refused for good: sending it again would not help, and the browser's
  // console has it.
  failed = 0;
  save(events, []);
  later(0);
}

/** leave sends what it can: the page may be gone before a fetch is out. */
function leave() {
  while (open && held.length) {
    const events = next();
    if (!n.onLine || !n.sendBeacon?.(host + '/v1/e', new Blob([batch(events)], { type: 'text/plain' }))) {
      // The browser takes 64 KiB at once; what is beyond waits for the next page.
      held = events.concat(held);
      return save(held, held);
    }
  }
}

/** allow lets events go, or drops them. */
export function allow(yes?: boolean) {
  open = yes;
  if (yes) held = without(saved(), held).concat(held);
  if (yes === false) held = [];
  later(0);
}

export function watch() {
  on(w, 'pagehide', leave);
  on(d, 'visibilitychange', () => d.visibilityState == 'hidden' && leave());
}
