// A consent platform: the IAB's own libraries answer __tcfapi and __gpp, as they
// do in the platforms that are sold. The page says what the visitor chose:
//
//   cmp.tcf({purposes: [1, 3, 4], vendors: [5, 21]})   a choice, as a TC string
//   cmp.usnat({SaleOptOut: 1})                         one of the national section
//   cmp.both({…})                                      a TC string, in __gpp as well
//   cmp.usp('1YNN')                                    US Privacy
//
// window.cmpStart says which of the interfaces there are before anything is
// chosen: {tcf: true, gpp: true, usp: '1YNN'}.
import { CmpApi as TCF } from '@iabtechlabtcf/cmpapi';
import { GVL, TCModel, TCString } from '@iabtechlabtcf/core';
import { CmpApi as GPP } from '@iabgpp/cmpapi';

const ids = n => Object.fromEntries([...Array(n)].map((_, i) => [i + 1, { id: i + 1, name: 'p', description: 'd', illustrations: [] }]));
const list = new GVL({
  gvlSpecificationVersion: 3, vendorListVersion: 150, tcfPolicyVersion: 5, lastUpdated: '2026-01-01T00:00:00Z',
  purposes: ids(11), specialPurposes: ids(2), features: ids(3), specialFeatures: ids(2), stacks: {}, dataCategories: {},
  vendors: Object.fromEntries([5, 21, 22].map(id => [id, {
    id, name: 'vendor ' + id, purposes: [1, 3, 4, 9, 10], legIntPurposes: [], flexiblePurposes: [], specialPurposes: [], features: [], specialFeatures: [],
    urls: [], cookieMaxAgeSeconds: 1, usesCookies: true, cookieRefresh: false, usesNonCookieAccess: false
  }]))
});
const start = window.cmpStart || {};
const tcf = start.tcf && new TCF(7, 1, true);
const gpp = start.gpp && new GPP(7, 1);
if (tcf) tcf.update('', true); // the banner is shown
if (gpp) {
  gpp.setCmpDisplayStatus('visible');
  gpp.setApplicableSections(start.gpp);
  gpp.setSupportedAPIs(['2:tcfeuv2', '7:usnat']);
}

async function string(choice) {
  const m = new TCModel(list);
  m.cmpId = 7;
  m.cmpVersion = 1;
  m.isServiceSpecific = true;
  m.publisherCountryCode = 'DE';
  choice.purposes.forEach(p => m.purposeConsents.set(p));
  choice.vendors.forEach(v => m.vendorConsents.set(v));
  [5, 21, 22].forEach(v => m.vendorsDisclosed.set(v));
  return TCString.encode(m);
}
function chosen() {
  gpp.setCmpDisplayStatus('hidden');
  gpp.setSignalStatus('ready');
}
window.cmp = {
  async tcf(choice) {
    const s = await string(choice);
    tcf.update(s, false);
    return s;
  },
  usnat(fields) {
    gpp.setSignalStatus('not ready');
    const all = {
      SharingNotice: 1, SaleOptOutNotice: 1, SharingOptOutNotice: 1, TargetedAdvertisingOptOutNotice: 1, SaleOptOut: 2, SharingOptOut: 2, TargetedAdvertisingOptOut: 2,
      MspaCoveredTransaction: 2, ...fields
    };
    for (const k in all) gpp.setFieldValue('usnat', k, all[k]);
    gpp.fireSectionChange('usnat');
    chosen();
    return gpp.getGppString();
  },
  async both(choice) {
    const s = await string(choice);
    gpp.setSignalStatus('not ready');
    gpp.setSectionStringById(2, s);
    gpp.fireSectionChange('tcfeuv2');
    chosen();
    tcf.update(s, false);
    return gpp.getGppString();
  }
};
if (start.usp) window.__uspapi = (command, version, then) => command === 'getUSPData' && then({ version: 1, uspString: start.usp }, true);
