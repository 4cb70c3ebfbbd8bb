// Package postgres lets a PostgreSQL database tell cacheaside of its changes, whichever program
// makes them.
//
//   - [Feed] reads the database's own log by logical decoding: rows that have changed, and what transactions have told.
//   - [Emit] writes what is to be removed into the transaction that changes it. A process that is killed between the
//     commit and the removal loses nothing: the feed tells it.
//   - [InTx] runs a function in a transaction of pgx and in a change, as [cacheaside.InTx] does for database/sql.
//   - [Outbox] is Emit and a feed for databases that allow no replication: by a table, which it polls.
//
// PostgreSQL 14 is the oldest version. The server's wal_level must be logical, and the user must
// have the attribute REPLICATION (on Amazon RDS the role rds_replication); a feed that lacks
// something says which, with the SQL to run.
package postgres
