"""Jobs in Redis: one class for each who changes them, one Lua script for each change."""
