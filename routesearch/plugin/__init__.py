"""The plugin system: three hooks, the search for plugins, and the plugin that the package itself is."""
