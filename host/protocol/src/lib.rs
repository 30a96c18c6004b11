//! MCP on the wire: envelope, eras, headers, SSE, sealed state. No I/O.
