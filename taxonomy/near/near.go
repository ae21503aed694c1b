// Package near says which word somebody meant: a misspelt field, key or setting
// is refused with the known one that is nearest.
package near

import "strings"

// Word returns the known word that is fewest slips away from s, as it stands or
// in small letters, and false if all are more than most away.
func Word(s string, known []string, most int) (string, bool) {
	small := strings.ToLower(s)
	best, slips := "", most+1
	for _, k := range known {
		if d := min(Slips(s, k), Slips(small, k)); d < slips {
			best, slips = k, d
		}
	}
	return best, best != ""
}

// longest is how much of a word is looked at: longer ones are no near misses, and
// s is whatever was sent.
const longest = 64

// Slips is the number of letters to insert, delete, replace or swap with their
// neighbour to turn a into b (optimal string alignment). A swap counts once, since
// it is the commonest slip. Of longer words the first 64 bytes count.
func Slips(a, b string) int {
	a, b = a[:min(len(a), longest)], b[:min(len(b), longest)]
	var rows [3][longest + 1]int
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		above2, above, row := &rows[(i+1)%3], &rows[(i-1)%3], &rows[i%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], above2[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}
