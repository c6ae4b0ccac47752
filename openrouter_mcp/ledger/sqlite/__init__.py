"""The book as an SQLite file that the processes of one machine share."""
