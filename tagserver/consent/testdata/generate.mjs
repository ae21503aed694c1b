// Makes differential.gz: 100,000 consent strings and what they lead to, by the
// IAB's own encoders and decoders and a decision written here from the decoded
// fields. Run once, in a folder with the packages:
//
//   npm i @iabtechlabtcf/core@1.5.21 @iabgpp/cmpapi@3.2.0
//   node generate.mjs > differential.txt && gzip -9n < differential.txt > differential.gz
//
// A line is: kind, string, expected.
//   T  a TC string for vendor 5, on 15 March 2026: purposes 1 3 4 9 10 as five
//      digits, then whether destinations of vendors 7 and 3 may have it, or "-" if
//      it does not count. Vendor 5 declares consent for 1, 3, 4 and 9 (flexible)
//      and legitimate interest for 10 (flexible), vendor 7 consent for 1 and 4,
//      vendor 3 for 1 only.
//   M  a TC string that was spoilt: what the decoder makes of it is the most that
//      it may lead to, "-" if the decoder refuses it or takes it for invalid.
//   G  a GPP string with American sections: 1 if one of them objects.
import { createRequire } from 'module'
import { pathToFileURL } from 'url'
const require = createRequire(pathToFileURL(process.cwd() + '/'))
const { TCModel, TCString, GVL, PurposeRestriction } = require('@iabtechlabtcf/core')
const { GppModel } = require('@iabgpp/cmpapi')

let state = 20260315
const random = () => { // mulberry32
  state = (state + 0x6d2b79f5) | 0
  let t = Math.imul(state ^ (state >>> 15), 1 | state)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}
const below = n => Math.floor(random() * n)
const chance = p => random() < p
const pick = xs => xs[below(xs.length)]

const day = 86400000
const now = Date.UTC(2026, 2, 15)
const purposes = Object.fromEntries([...Array(11)].map((_, i) => [i + 1, { id: i + 1, name: 'p', description: 'd', illustrations: [] }]))
const vendors = {}
for (let id = 1; id <= 40; id++) {
  vendors[id] = { id, name: 'v' + id, purposes: [1, 2, 3, 4, 9], legIntPurposes: [7, 8, 10, 11], flexiblePurposes: [2, 7, 8, 9, 10, 11], specialPurposes: [], features: [], specialFeatures: [], urls: [], cookieMaxAgeSeconds: 1, usesCookies: true, cookieRefresh: false, usesNonCookieAccess: false }
}
const gvl = new GVL({ gvlSpecificationVersion: 3, vendorListVersion: 150, tcfPolicyVersion: 5, lastUpdated: '2026-03-01T00:00:00Z', purposes, specialPurposes: {}, features: {}, specialFeatures: { 1: { id: 1, name: 's', description: 'd', illustrations: [] } }, stacks: {}, dataCategories: {}, vendors })
const declared = {
  5: { consent: [1, 3, 4, 9], interest: [10], flexible: [9, 10] },
  7: { consent: [1, 4], interest: [], flexible: [] },
  3: { consent: [1], interest: [], flexible: [] },
}

function makeTCF() {
  const m = new TCModel(gvl)
  m.cmpId = 7
  m.cmpVersion = 1
  m.consentScreen = 1
  m.consentLanguage = 'EN'
  m.isServiceSpecific = !chance(0.02)
  m.policyVersion = chance(0.02) ? 2 : pick([4, 5])
  m.publisherCountryCode = pick(['DE', 'FR'])
  m.purposeOneTreatment = chance(0.05)
  const most = pick([0.5, 0.9, 0.97])
  for (let p = 1; p <= 11; p++) {
    if (chance(most)) m.purposeConsents.set(p)
    if (p > 6 && chance(most)) m.purposeLegitimateInterests.set(p)
  }
  const asked = [3, 5, 7]
  const others = pick([[], [6], [4, 6, 8], [10, 11, 12, 13, 14], [40]])
  for (const v of asked.concat(others)) {
    if (chance(most)) m.vendorConsents.set(v)
    if (chance(most)) m.vendorLegitimateInterests.set(v)
    if (chance(0.95)) m.vendorsDisclosed.set(v)
  }
  for (const p of [1, 3, 4, 9, 10]) if (chance(most)) m.publisherConsents.set(p)
  for (let n = chance(0.3) ? 1 + below(3) : 0; n > 0; n--) {
    const r = new PurposeRestriction(pick([1, 3, 4, 9, 10]), pick([0, 1, 2]))
    for (const v of pick([[5], [7], [5, 7], [3, 5, 7], [6]])) {
      try { m.publisherRestrictions.add(v, r) } catch { /* one that means nothing is not encoded */ }
    }
  }
  const at = new Date(now - (chance(0.05) ? pick([397, 500, -3, -2000]) : below(380)) * day)
  m.created = at
  m.lastUpdated = at
  let s = TCString.encode(m)
  if (chance(0.1)) { // an older platform, or another order
    const parts = s.split('.')
    s = pick([parts[0], [parts[0], ...parts.slice(1).reverse()].join('.'), parts.slice(0, 2).join('.')])
  }
  return s
}

function decideTCF(s) {
  const m = TCString.decode(s)
  const at = m.created.getTime()
  const has = s.split('.').slice(1).some(x => x.length > 0 && ('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'.indexOf(x[0]) >> 3) === 1)
  const days = t => Math.floor(t / day)
  if (m.version !== 2 || m.policyVersion < 4 || !m.isServiceSpecific || days(m.lastUpdated.getTime()) > days(now) + 2 ||
    days(now) - days(at) > 396 || m.lastUpdated < m.created || (!has && at >= Date.UTC(2026, 2, 1))) return '-'
  const may = (p, v) => {
    const d = declared[v]
    const rs = m.publisherRestrictions.getRestrictions(v).filter(r => r.purposeId === p).map(r => r.restrictionType)
    if (rs.includes(0)) return false
    let basis = d.consent.includes(p) ? 'c' : d.interest.includes(p) ? 'i' : ''
    if (basis === '') return false
    if (has && !m.vendorsDisclosed.has(v)) return false
    if (rs.includes(1) && rs.includes(2)) return false
    if (rs.includes(1) && basis === 'i') { if (!d.flexible.includes(p)) return false; basis = 'c' }
    else if (rs.includes(2) && basis === 'c') { if (!d.flexible.includes(p)) return false; basis = 'i' }
    if (p === 1 && m.purposeOneTreatment) return false
    return basis === 'c' ? m.purposeConsents.has(p) && m.vendorConsents.has(v) : m.purposeLegitimateInterests.has(p) && m.vendorLegitimateInterests.has(v)
  }
  return [1, 3, 4, 9, 10].map(p => may(p, 5) ? '1' : '0').join('') + (may(4, 5) ? (may(4, 7) ? '1' : '0') + (may(4, 3) ? '1' : '0') : '00')
}

function spoil(s) {
  const i = below(s.length)
  const c = pick([...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.'])
  return pick([() => s.slice(0, i) + c + s.slice(i + 1), () => s.slice(0, i), () => s.slice(0, i) + c + s.slice(i), () => s.slice(0, i) + s.slice(i + 1)])()
}

const american = ['usnat', 'usca', 'usva', 'usco', 'usut', 'usct', 'usfl', 'usmt', 'usor', 'ustx', 'usde', 'usia', 'usne', 'usnh', 'usnj', 'ustn', 'usmn', 'usmd', 'usin', 'usky', 'usri']
const template = {}
for (const n of american) {
  const m = new GppModel()
  m.setFieldValue(n, 'SaleOptOut', 0)
  template[n] = m.getSection(n)
}

function makeGPP() {
  const m = new GppModel()
  const calm = pick([0, 0, 0.05, 0.3])
  for (const n of [...new Set([pick(american), ...(chance(0.15) ? [pick(american)] : [])])]) {
    if (n === 'usnat' && chance(0.4)) m.setFieldValue(n, 'Version', 1)
    for (const [name, value] of Object.entries(template[n])) {
      if (name === 'Version' || name === 'MspaVersion' || name === 'GpcSegmentType') continue
      if (name === 'Gpc') { m.setFieldValue(n, name, chance(calm)); continue }
      const covers = name === 'MspaCoveredTransaction'
      const one = () => covers ? 1 + below(2) : chance(calm) ? 1 + below(2) : /OptOut$/.test(name) && chance(0.5) ? 2 : /Notice$/.test(name) && chance(0.5) ? 1 : 0
      m.setFieldValue(n, name, Array.isArray(value) ? value.map(one) : one())
    }
    if ('Gpc' in template[n] && chance(0.2)) m.setFieldValue(n, 'GpcSegmentIncluded', false)
  }
  if (chance(0.1)) m.setFieldValue('uspv1', 'OptOutSale', pick(['Y', 'N', '-']))
  return m.encode()
}

function decideGPP(s) {
  const m = new GppModel(s)
  for (const id of m.getSectionIds()) {
    const name = id === 6 ? 'uspv1' : american[id - 7]
    const f = m.getSection(name)
    if (id === 6) { if (f.OptOutSale === 'Y') return '1'; continue }
    if (f.Gpc === true || f.MspaServiceProviderMode === 1 || f.MspaMode === 2 || f.PersonalDataConsents === 1 || f.AdditionalDataProcessingConsent === 1) return '1'
    for (const [k, v] of Object.entries(f)) {
      if (/OptOut$/.test(k) && v === 1) return '1'
      if (/Notice$/.test(k) && v === 2) return '1'
      if (/^KnownChild/.test(k) && [].concat(v).some(x => x !== 0)) return '1'
    }
  }
  return '0'
}

for (let i = 0; i < 100000; i++) {
  if (i % 5 < 2) {
    const s = makeGPP()
    console.log(`G ${s} ${decideGPP(s)}`)
  } else if (i % 10 === 9) {
    const s = spoil(makeTCF())
    if (!/^[!-~]+$/.test(s)) { console.log('M x -'); continue }
    let out = '-'
    try { out = decideTCF(s) } catch { /* refused there too */ }
    console.log(`M ${s} ${out}`)
  } else {
    const s = makeTCF()
    console.log(`T ${s} ${decideTCF(s)}`)
  }
}
