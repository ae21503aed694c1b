// Package delivery is how a DSP gets an audience: what it holds of us, what it
// must hold, and the difference between the two, written as files that it pulls
// or that are pushed to it.
//
// The planner (Plan) is a pure step over the ledger of a destination; the
// Deliverer gathers its input, writes files first and then one head, and serves
// what the head names. See README.md.
package delivery
