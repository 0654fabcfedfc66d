"""The compiled core: thin wrappers that turn checked arguments into one C struct each."""
