"""The book as a Redis or Valkey server keeps it for many hosts: `script` is what runs there, `book` asks for it."""
