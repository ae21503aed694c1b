package tagserver

import "strings"

// botWords stand in the user agents of crawlers and monitors that say what they
// are. Programs that browse like people (headless browsers, HTTP libraries) are
// not here: whether those are visitors is for the site's owner to say, and a
// crawler that hides is on no list.
var botWords = []string{
	"bot", "crawl", "spider", "slurp", "lighthouse", "pagespeed", "pingdom", "uptime", "facebookexternalhit",
	"embedly", "feedfetcher", "archiver",
}

// maxAgent is how much of a user agent is looked at: no browser sends more, and
// what sends more is no browser.
const maxAgent = 1024

// isBot reports whether a user agent says that it is a program's.
func isBot(agent string) bool {
	if len(agent) > maxAgent {
		return true
	}
	var a [maxAgent]byte
	lower := a[:len(agent)]
	for i := range lower {
		c := agent[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		lower[i] = c
	}
	s := string(lower)
	for _, w := range botWords {
		// Cubot makes phones.
		if strings.Contains(s, w) && !(w == "bot" && strings.Count(s, "bot") == strings.Count(s, "cubot")) {
			return true
		}
	}
	return false
}
