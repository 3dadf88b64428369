"""The server: `service.inference` answers photographs, the rest of the package speaks HTTP."""
