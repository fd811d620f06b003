//! Continuous queries and push queries, one promise per test.
