"""Collections of images and their search. May import app.clip and app.http."""
