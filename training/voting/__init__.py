"""People's choices between several models' edits of the same faces.

`questions` makes the pictures, `study` blinds them and keeps the key, `page` is the voters' HTML;
`ballots` reads the vote files, `tally` computes shares, strengths and agreement, and `results`
shows them.
"""
