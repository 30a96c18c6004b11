//! Metric names, spans and audit events: declared once, used everywhere.
