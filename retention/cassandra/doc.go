// Package cassandra keeps the five contracts of retention in Apache Cassandra,
// for those who outgrow one machine: many nodes of Ebb, nothing shared but the
// cluster.
//
// Every write is idempotent and repeated here, by our own loop: the driver's
// retries know neither idempotence nor what is unknown. See README.md for the
// tables, what each consistency level means and what may be lost when.
package cassandra
