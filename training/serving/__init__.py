"""The server of a promoted model: its page, its routes, the queue, and following the alias."""
