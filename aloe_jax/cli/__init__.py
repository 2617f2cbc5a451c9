"""The commands, a file each: they read options and settings, call the library and print."""
