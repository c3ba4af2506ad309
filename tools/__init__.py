"""The schema, the SQL function files and a throwaway server to try them on."""
