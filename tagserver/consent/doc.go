// Package consent reads the strings in which a visitor's consent arrives: the
// IAB's TCF (2.0 to 2.3), its GPP with the sections of the United States, and US
// Privacy. It says of each what it allows us and every destination, as a
// Statement for taxonomy/consent, which decides.
//
// The bytes come from anybody. So the parsers read each character once, allocate
// nothing, take no count from a string for granted, and have one answer for what
// they do not understand: no.
package consent
