"""From files to labels: decoding, training, labelling, tracking, reports and the command line."""
