// What the page says of the tag, and how the tag touches the page.

export const w: any = window;
export const d: any = document;
export const n: any = navigator;

// A script that was loaded in an unusual way is not the current one; then it is
// the one of our name.
const script = d.currentScript || d.querySelector('script[src*="/ebb.js"]');

const address: any = new URL(script?.src || 'a:');

/**
 * settings are the data- attributes of the script element, or stand in its
 * address, for those who cannot set attributes: ebb.js?site=shop&consent=manual.
 */
export const settings: Record<string, string> = { ...Object.fromEntries(address.searchParams), ...script?.dataset };

export const site = settings.site;
export const host = settings.host || address.origin;
/** name is that of the one global. */
export const name = settings.ns || 'ebb';

/** safely runs what may throw: a page must not break because of us. */
export function safely<T>(f: (...a: any[]) => T, ...args: any[]): T | undefined {
  try {
    return f(...args);
  } catch (e) {
    settings.debug && console.log(e);
  }
}

export const on = (target: any, event: string, f: (e: any) => unknown) => target.addEventListener(event, (e: any) => safely(f, e), true);

// A page that replaces these later does not change what is sent.
export const json = JSON.stringify;
export const parse = JSON.parse;
export const now = Date.now;
