//! Functions Postgres and ksqlDB have and DataFusion lacks.
