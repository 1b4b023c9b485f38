package main

import "testing"

// A misspelt word is taken for the nearest one, and one that is like none for none.
func TestNearest(t *testing.T) {
	names := []string{"images", "image", "info", "ps", "run", "no-cache", "network"}
	for word, want := range map[string]string{
		"iamges": "images", "imags": "images", "imgae": "image", "nocache": "no-cache", "IMAGES": "images", "netwrk": "network",
		"sp": "ps", "rnu": "run", "nonsense": "", "x": "", "": "", "compose": "",
	} {
		if got := nearest(word, names); got != want {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"ab", "", 2}, {"ab", "ba", 1}, {"abc", "acb", 1}, {"kitten", "sitting", 3}, {"a", "b", 1}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%s, %s: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
