//! Talking to MCP servers: transports, eras, pools, health.
