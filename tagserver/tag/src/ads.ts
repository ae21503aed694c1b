// What hands the visitor's audiences to the page's ads, in a file of its own:
// pages without ads do not load it, and the tag stays small.
//
//   <script async src="https://data.shop.example/t/1/ads.js" data-site="shop" data-prebid="*" data-gpt="ebb"></script>
import type { Audience } from './ask';
import { host, json, name, now, settings, w } from './page';
import { read, write } from './store';

const ebb = (w[name] = w[name] || function () {
  (w[name].q = w[name].q || []).push(arguments);
});
let handed: unknown;

/** hand replaces what an earlier list left with the page's ads. */
function hand(list: Audience[]) {
  handed = list.length;
  const ids = list.slice(0, 100).map((a) => a.id);
  const bidders = settings.prebid;
  const slot = settings.gpt;
  if (bidders) {
    // OpenRTB: data.name is the provider of the data.
    const name = host.split('/')[2];
    const put = (o: any) => ({
      ortb2: {
        ...o,
        user: {
          ...o?.user,
          data: (o?.user?.data || [])
            .filter((x: any) => x.name != name)
            .concat(ids[0] ? { name, ext: { segtax: +settings.segtax || undefined }, segment: ids.map((id) => ({ id })) } : [])
        }
      }
    });
    const p = (w.pbjs = w.pbjs || {});
    (p.que = p.que || []).push(() => {
      if (bidders == '*') return p.setConfig(put(p.getConfig('ortb2')));
      const all = p.getBidderConfig();
      bidders.split(',').forEach((b) => p.setBidderConfig({ bidders: [b], config: put(all[b]?.ortb2) }));
    });
  }
  if (slot) {
    const g = (w.googletag = w.googletag || {});
    (g.cmd = g.cmd || []).push(() => (g.setConfig ? g.setConfig({ targeting: { [slot]: ids[0] ? ids : null } }) : g.pubads().setTargeting(slot, ids)));
  }
}

// The last list is handed over at once, and the present one when it comes.
let allowed: unknown;
ebb('watch', (yes: unknown) => {
  allowed = yes;
  if (!yes) {
    // Taken back, not left until the page ends.
    if (handed) hand([]);
    return;
  }
  const { a, t } = read();
  if (a && t! > now() - 216e5) hand(a);
  w[name]('audiences', (list: Audience[]) => {
    if (!allowed) return;
    write({ ...read(), a: list, t: now() });
    if (json(list) != json(a) || !handed) hand(list);
  });
});
