// The visitor's audiences, asked for.
import { says, strings } from './consent';
import { host, safely, site, w } from './page';

export type Audience = { id: string };

/** ask gives the audiences to then; [] if there are none, or nobody answers. */
export async function ask(then: (list: Audience[]) => void) {
  const q: any = { ...strings, consent: +says.page! };
  let list: Audience[] = [];
  try {
    let url = host + '/v1/seg?site=' + site;
    for (const k in q) if (q[k]) url += '&' + k + '=' + encodeURIComponent(q[k]);
    list = (await (await w.fetch(url, { credentials: 'include' })).json()).audiences || [];
  } catch (e) {
    // Nobody answers.
  }
  safely(then, list);
}
