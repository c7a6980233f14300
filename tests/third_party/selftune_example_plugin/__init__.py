"""An example of a third party's plugins for selftune."""
