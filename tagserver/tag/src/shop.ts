// What shops tell, in the words of the tag, in a file of its own: helpers for
// product, cart and order, and a reader of the data layer that many shops fill
// already (GA4's ecommerce events, as gtag or Tag Manager push them, and the older
// Enhanced Ecommerce).
//
//   <script async src="https://data.shop.example/t/1/shop.js" data-site="shop" data-layer="dataLayer"></script>
import { name, safely, settings, w } from './page';

type Thing = Record<string, any>;

w[name] = w[name] || function () {
  (w[name].q = w[name].q || []).push(arguments);
};
// Whoever has the name now: the queue, and later the tag.
const ebb = (...a: any[]) => w[name](...a);

/** list is what is given, as a list. */
const list = (x: any): any[] => (x ? [].concat(x) : []);

/** pick takes what rules ask for of a product, whatever the shop calls it. */
function pick(i: Thing, currency?: string): Thing {
  const first = (...keys: string[]) => keys.map((k) => i[k]).find((v) => v != null && v !== '');
  const category = ['', 2, 3, 4, 5].map((n) => i['item_category' + n]).filter((c) => c);
  const out: Thing = {
    sku: first('sku', 'item_id', 'id'),
    product: first('name', 'item_name'),
    brand: first('brand', 'item_brand'),
    category: category[0] ? category.join('/') : first('category', 'item_category'),
    variant: first('variant', 'item_variant'),
    price: first('price'),
    quantity: first('quantity'),
    currency: first('currency') || currency
  };
  for (const k in out) if (out[k] == null) delete out[k];
  return out;
}

/** products tells one event for each. */
function products(event: string, things: any, currency?: string) {
  const all = list(things).map((i) => pick(i, currency));
  all[0] && ebb('track', event, all);
}

/**
 * mark turns an order's number into an ID for its event, of letters only: the
 * order counts once, however often its page is shown, and its number is not sent.
 */
function mark(number: any): string {
  let a = 0x811c9dc5;
  let b = 0x1000193;
  for (const c of '' + number) {
    a = Math.imul(a ^ c.codePointAt(0)!, 0x1000193);
    b = Math.imul(b ^ c.codePointAt(0)!, 0x5bd1e995) + a;
  }
  let out = 'order-';
  for (let x of [a, b]) for (let i = 0; i < 7; i++, x = (x >>> 0) / 26) out += String.fromCharCode(97 + ((x >>> 0) % 26));
  return out;
}

const told: Thing = {};

function order(o: Thing, things?: any) {
  const number = o.id ?? o.transaction_id;
  const id = number == null || number === '' ? undefined : mark(number);
  if (id && told[id]) return;
  if (id) told[id] = 1;
  const lines = list(things || o.items);
  const props: Thing = { value: o.value ?? o.revenue, currency: o.currency, items: lines.length || undefined };
  for (const k in props) if (props[k] == null) delete props[k];
  ebb('conversion', 'purchase', props, id);
  // A line has the order's ID and its place, so it counts once as well.
  lines.forEach((i, n) => ebb('track', 'purchase_item', pick(i, o.currency), id && id + '-' + n));
}

const commands = {
  product: (things: any) => products('view_item', things),
  cart: (things: any, how?: string) => products(how == 'remove' ? 'remove_from_cart' : how == 'view' ? 'view_cart' : 'add_to_cart', things),
  order
};
ebb('use', commands);

// GA4's events that are told; what else is in the layer is the shop's business.
const known = /^(view_item|add_to_cart|remove_from_cart|view_cart|begin_checkout|add_to_wishlist)$/;
// Enhanced Ecommerce's.
const older: Record<string, string> = { detail: 'view_item', add: 'add_to_cart', remove: 'remove_from_cart', checkout: 'begin_checkout' };

/** read takes one entry of the data layer. */
function read(entry: any) {
  // gtag pushes its arguments: "event", name, parameters.
  const g = entry[0] == 'event';
  const event = g ? entry[1] : entry.event;
  const e = g ? entry[2] : entry.ecommerce;
  if (!e) return;
  if (event == 'purchase' && (e.items || e.transaction_id)) return order(e);
  if (known.test(event)) return products(event, e.items, e.currency);
  for (const k in older) if (e[k]) products(older[k], e[k].products, e.currencyCode);
  if (e.purchase) order({ currency: e.currencyCode, ...e.purchase.actionField }, e.purchase.products);
}

if (settings.layer) {
  const layer = (w[settings.layer] = w[settings.layer] || []);
  const push = layer.push;
  layer.push = function () {
    for (const entry of arguments as any) safely(read, entry);
    return push.apply(layer, arguments);
  };
  for (let i = 0; i < layer.length; i++) safely(read, layer[i]);
}
