/**
 * Real-time data of Ebb: the visitor's audiences as ortb2.user.data, for every
 * bidder of an auction, or with params.perBidder for those alone that Ebb's
 * destinations permit.
 * @module modules/ebbRtdProvider
 * @requires module:modules/realTimeData
 */
import { qualifiedAjaxBuilder } from '../src/ajax.js';
import { submodule } from '../src/hook.js';
import { isStr, logError, logWarn, safeJSONParse } from '../src/utils.js';

/**
 * @typedef {import('../modules/rtdModule/index.js').RtdSubmodule} RtdSubmodule
 */

const NAME = 'ebb';
const MOST = 100; // audiences of a visitor that are handed over
// By its name: Prebid takes the cookie out of requests of modules that it does not know.
const ajax = qualifiedAjaxBuilder('rtd', NAME);

/** The address of the visitor's audiences, with the consent that Prebid knows. */
export function addressOf(params, userConsent) {
  const { gdpr, usp, gpp } = userConsent || {};
  const query = {
    site: params.site,
    as: params.perBidder ? 'ortb2' : undefined,
    gdpr: gdpr && (gdpr.gdprApplies ? 1 : 0),
    gdpr_consent: gdpr && gdpr.consentString,
    us_privacy: usp,
    gpp: gpp && gpp.gppString,
    gpp_sid: gpp && gpp.applicableSections && gpp.applicableSections.join(','),
    // A page without a platform says itself that the visitor agreed.
    consent: params.consent === true ? 1 : params.consent === false ? 0 : undefined,
  };
  return params.host.replace(/\/+$/, '') + '/v1/seg?' + Object.keys(query)
    .filter((k) => query[k] !== undefined && query[k] !== null && query[k] !== '')
    .map((k) => k + '=' + encodeURIComponent(query[k])).join('&');
}

/** Puts what each bidder may be told into that bidder's own data. */
export function putEach(ortb2Fragments, params, text) {
  const each = (safeJSONParse(text) || {}).bidder || {};
  const name = params.name || params.host.split('/')[2];
  Object.keys(each).forEach((code) => {
    const data = each[code] && each[code].user && each[code].user.data;
    if (!Array.isArray(data) || !data.length) return;
    // In one write: Prebid hands out guarded copies, and takes what is set as a whole.
    const of = (ortb2Fragments.bidder || {})[code] || {};
    const kept = ((of.user && of.user.data) || []).filter((d) => d.name !== name);
    ortb2Fragments.bidder[code] = { user: { ...of.user, data: kept.concat(data.map((d) => ({ ...d, name }))) } };
  });
}

/** Puts the audiences of an answer into the request's first-party data. */
export function put(ortb2Fragments, params, text) {
  const audiences = (safeJSONParse(text) || {}).audiences;
  const ids = (Array.isArray(audiences) ? audiences : []).map((a) => a && a.id).filter(isStr).slice(0, MOST);
  if (!ids.length) return;
  const name = params.name || params.host.split('/')[2];
  const data = { name, segment: ids.map((id) => ({ id })) };
  if (params.segtax) data.ext = { segtax: Number(params.segtax) };
  const global = ortb2Fragments.global;
  global.user = global.user || {};
  global.user.data = (global.user.data || []).filter((d) => d.name !== name).concat(data);
}

/** @type {RtdSubmodule} */
export const ebbSubmodule = {
  name: NAME,
  init(config) {
    const params = (config && config.params) || {};
    const ok = isStr(params.site) && isStr(params.host) && /^https?:\/\//.test(params.host);
    if (!ok) logError(NAME + ': params.site and params.host (https://…) are needed');
    return ok;
  },
  getBidRequestData(reqBidsConfigObj, callback, config, userConsent) {
    // Whatever happens, and once: the auction waits for it.
    const done = (why) => {
      if (why) logWarn(NAME + ': ' + why);
      callback();
    };
    try {
      ajax(addressOf(config.params, userConsent), {
        success(text) {
          try {
            (config.params.perBidder ? putEach : put)(reqBidsConfigObj.ortb2Fragments, config.params, text);
          } finally {
            done();
          }
        },
        error: (why) => done('no answer: ' + why),
      }, null, { method: 'GET', withCredentials: true });
    } catch (e) {
      done('not asked: ' + e);
    }
  },
};

submodule('realTimeData', ebbSubmodule);
