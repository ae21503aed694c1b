// What the tag keeps in the browser: one entry, not before consent, never an ID.
import { json, name, now, parse, safely, site, w } from './page';

export interface Event {
  id: string;
  t: number;
  kind: string;
  url: string;
  ref: string;
  name?: string;
  props?: Record<string, unknown>;
}

interface Entry {
  /** agreed here: so a refusal on a later page knows there is something to take back */
  y?: number;
  /** opted out: 1, the edge does not know yet; 2, it does */
  o?: number;
  /** events that could not be sent */
  q?: Event[];
  /** audiences of the last answer, and when it came */
  a?: { id: string }[];
  t?: number;
}

const key = name + ':' + site;

/** A storage that is full, or that throws, is an empty one. */
export const read = (): Entry => safely(() => parse(w.localStorage.getItem(key))) || {};

/** write replaces the entry; nothing in it, and there is none. */
export const write = (e?: Entry) => safely(() => (e ? w.localStorage.setItem(key, json(e)) : w.localStorage.removeItem(key)));

export const MAX = 100; // events that wait

/** saved returns the events that could not be sent; the edge takes none older than a day. */
export const saved = (): Event[] => (read().q || []).filter((e) => e.t > now() - 864e5);

/** without returns the events of a that are not in b. */
export const without = (a: Event[], b: Event[]) => a.filter((e) => !b.some((x) => x.id == e.id));

/**
 * save takes events away from those that could not be sent, and adds others. It
 * reads what is there first: another tab of the site may have been here.
 */
export function save(sent: Event[], failed: Event[]) {
  const e = read();
  if (!e.y || !(e.q || failed[0])) return;
  e.q = without(saved(), sent).concat(failed).slice(-MAX);
  while (json(e.q).length > 6e4) e.q.shift();
  write(e);
}
