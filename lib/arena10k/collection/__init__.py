"""How a request becomes a record: endpoints, limits, the store, and the checks of every answer."""
