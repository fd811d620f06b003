//! The bridge to DataFusion: relations and topics as tables it can scan.
