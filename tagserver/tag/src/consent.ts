// What is known of the visitor's consent. Fail-closed: any no is a no, what
// waits is no yes, and the edge decides again from the same strings.
import { json, n, on, parse, safely, settings, w } from './page';

/**
 * says holds the verdict of each who speaks, the page and the interfaces of
 * platforms: undefined while it is open, and if nobody can read it.
 */
export const says: Record<string, boolean | undefined> = {};

/** strings are what the platforms say, passed on as it is. */
export const strings: Record<string, string | undefined> = {};

/** silent: nobody has spoken for so long that the default counts. */
export let silent: unknown;

/** verdict is true, false, or undefined while it is open. */
export function verdict(): boolean | undefined {
  const all = Object.values(says);
  if (n.globalPrivacyControl || all.includes(false)) return false;
  if (!all.includes(undefined) && (all[0] || settings.consent == 'none' || (silent && settings.default == 'granted'))) return true;
}

type Call = (command: string, then: (value: any, ok: boolean) => void, parameter?: string) => void;

/** find returns how a platform's interface is called, here or in a parent. */
function find(api: string, version: number): Call | undefined {
  const here = w['__' + api];
  if (here) return (command, then, parameter) => (version ? here(command, version, then, parameter) : here(command, then, parameter));
  for (let f = w; f != w.top; ) {
    f = f.parent;
    // Another origin's frame shows its frames by name.
    if (safely(() => f.frames['__' + api + 'Locator']))
      return (command, then, parameter) => {
        const callId = '' + Math.random();
        on(w, 'message', (e) => {
          const m = (e.data.trim ? parse(e.data) : e.data)['__' + api + 'Return'];
          if (e.source == f && m.callId == callId) then(m.returnValue, m.success);
        });
        f.postMessage({ ['__' + api + 'Call']: { command, version, callId, parameter } }, '*');
      };
  }
}

// Readers of what a platform answers. What is not as it should be throws, and
// stays open.
const readers: Record<string, (data: any, call: Call, answer: (v: boolean) => void) => void> = {
  tcfapi(data, call, answer) {
    if (!/^[tu]/.test(data.eventStatus)) return; // tcloaded, useractioncomplete
    const applies = data.gdprApplies !== false;
    strings.tcf = applies ? data.tcString : '';
    answer(
      !applies ||
        ((settings.tcfPurposes || '1,3,4').split(',').every((p) => data.purpose.consents[p]) &&
          (!settings.tcfVendor || !!data.vendor.consents[settings.tcfVendor]))
    );
  },
  gpp(event, call, answer) {
    const ping = event.pingData;
    if (!/^r/.test(ping.signalStatus)) return; // ready
    const ids: number[] = ping.applicableSections.filter((id: number) => id > 0); // -1: no law applies
    let open = ids.length;
    let yes = true;
    strings.gpp = open ? ping.gppString : '';
    strings.gpp_sid = '' + ids;
    open || answer(yes);
    ids.forEach((id) => {
      const one = (section: any) => {
        // No section, no yes; in a state's, any field that opts out is a no.
        if (!section || /(Out|Gpc)":(1|t)/.test(json(section))) yes = false;
        --open || answer(yes);
      };
      // Europe's section is the other interface's business; the states' begin at
      // 7, the nation's, and are called as the standard names them, for not every platform
      // says supportedAPIs; what we do not know is a no.
      if (id > 6) call('getSection', one, 'us' + 'natcavacoutctflmtortxdeianenhnjtnmnmdinkyri'.match(/nat|../g)![id - 7]);
      else one(id == 2 && 'tcfapi' in says && {});
    });
  },
  uspapi(data, call, answer) {
    strings.usp = data.uspString;
    // Anything else stays open.
    answer(([false, 1, 1] as any)['YN-'.indexOf(data.uspString[2])]);
  }
};

/** listen looks for platforms until the time is up. */
export function listen(changed: () => void) {
  let waited = 0;
  const look = () => {
    [['tcfapi', 2, 'addEventListener'], ['gpp', 0, 'addEventListener'], ['uspapi', 1, 'getUSPData']].forEach(([api, version, command]: any) => {
      // The old American interface counts where the new one is not.
      const call = !(api in says) && !(api == 'uspapi' && says.gpp) && find(api, version);
      if (!call) return;
      says[api] = undefined;
      safely(call, command, (data: any) =>
        safely(() => {
          says[api] = undefined;
          safely(readers[api], data, call, (v: boolean) => {
            says[api] = v;
            changed();
          });
          changed();
        })
      );
    });
    if ((waited += 100) > ((settings.wait as any) || 3e3)) {
      silent = 1;
      changed();
    } else setTimeout(look, 100);
  };
  look();
}
