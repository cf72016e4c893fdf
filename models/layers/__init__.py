"""The layers that recurrent cores are stacked from."""
