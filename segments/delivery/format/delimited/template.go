// Package delimited is the family of formats that have a line for each ID with
// all its audiences: one engine for templates with Audience Manager's macros,
// and the receivers that are such templates.
package delimited

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ebb-dmp/ebb/taxonomy"
)

// Member is an audience that an ID is in, or leaves.
type Member struct {
	SID     string // the receiver's name of the audience
	Alias   string // our ID of it
	Minutes int    // remaining life; 0 if it leaves
}

// Values are what macros stand for.
type Values struct {
	ID        string
	In, Out   []Member
	Account   map[string]string // PID, PIDALIAS, ORDER_ID, DPID, MASTER_DPID, SYNC_TYPE
	Mode      string            // full or iter
	Created   taxonomy.Millis
	Part      int    // 0: the whole file in one
	NameStamp string // of file names: 13 digits; else TIMESTAMP has 10
}

// Template is a line or a file's name with macros in angle brackets.
type Template struct {
	nodes []node
}

// node is text, or a macro.
type node struct {
	text      string
	macro     string
	item      []node // of a list: how an element is written
	separator string
	format    string
	when      []string // of a condition: the lists that must have elements
	then      []node
}

// scalars are the macros that stand for one value.
var scalars = map[string]bool{
	"DP_UUID": true, "UUID": true, "MCID": true, "PID": true, "PIDALIAS": true, "PID_ALIAS": true, "ORDER_ID": true, "DPID": true,
	"MASTER_DPID": true, "SYNC_TYPE": true, "SYNC_MODE": true, "TIMESTAMP": true, "SPLITNUM": true,
	"SET_ATTRIBUTES": true, "OPT_OUT": true, "OUTPUT_ATTRIBUTE_VALUE": true,
}

// signs are the macros that stand for a character that a template could not
// have otherwise.
var signs = map[string]string{
	"TAB": "\t", "NEW_LINE": "\n", "COMMA": ",", "ASCII_SOH": "\x01", "OPEN_CURLY_BRACKET": "{", "CLOSE_CURLY_BRACKET": "}",
}

// lists are the macros that stand for several values.
var lists = map[string]bool{"SEGMENT_LIST": true, "REMOVED_SEGMENT_LIST": true, "DP_UUID_LIST": true, "TRAIT_LIST": true}

// fields are what an element of a list of segments has.
var fields = map[string]bool{"sid": true, "type": true, "alias": true, "lastUpdateTime": true, "lastRealizationTime": true, "minutes": true}

// Parse reads a template. Errors name the macro and its place.
func Parse(s string) (*Template, error) {
	if len(s) > 8192 {
		return nil, errors.New("template: more than 8192 bytes")
	}
	p := parser{s: s}
	nodes, err := p.sequence("", 0)
	if err != nil {
		return nil, fmt.Errorf("template: byte %d: %w", p.at+1, err)
	}
	return &Template{nodes}, nil
}

type parser struct {
	s  string
	at int
}

// sequence reads up to the end, or to what ends it: an <endif>, or a bracket.
func (p *parser) sequence(element string, depth int) (nodes []node, err error) {
	if depth > 4 {
		return nil, errors.New("conditions stand more than four deep")
	}
	for p.at < len(p.s) {
		rest := p.s[p.at:]
		if element != "" && rest[0] == '}' {
			return nodes, nil
		}
		if rest[0] != '<' {
			n := strings.IndexAny(rest, "<}")
			if n < 0 {
				n = len(rest)
			}
			if n == 0 { // a bracket outside of a list is text
				n = 1
			}
			nodes = append(nodes, node{text: rest[:n]})
			p.at += n
			continue
		}
		if strings.HasPrefix(rest, "<endif>") {
			if depth == 0 || element != "" {
				return nil, errors.New("<endif> without <if(…)>")
			}
			return nodes, nil
		}
		n, err := p.macro(element, depth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	if element != "" {
		return nil, errors.New("the element of a list has no end: want }")
	}
	if depth > 0 {
		return nil, errors.New("<if(…)> without <endif>")
	}
	return nodes, nil
}

// word takes letters, digits, _ and dots.
func (p *parser) word() string {
	start := p.at
	for p.at < len(p.s) {
		if c := p.s[p.at]; c != '_' && c != '.' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			break
		}
		p.at++
	}
	return p.s[start:p.at]
}

func (p *parser) take(s string) bool {
	if strings.HasPrefix(p.s[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *parser) blanks() {
	for p.at < len(p.s) && p.s[p.at] == ' ' {
		p.at++
	}
}

func (p *parser) macro(element string, depth int) (n node, err error) {
	p.at++ // <
	name := p.word()
	switch field, ofElement := strings.CutPrefix(name, element+"."); {
	case element != "" && ofElement && fields[field]:
		n.macro = "." + field
	case signs[name] != "":
		n.text = signs[name]
	case name == "if" && element == "":
		return p.condition(depth)
	case scalars[name] || lists[name] && element == "":
		n.macro = name
	default:
		return n, fmt.Errorf("there is no macro %.40q here", name)
	}
	if lists[name] && p.take(":{") {
		p.blanks()
		variable := p.word()
		if variable == "" || !p.take("|") {
			return n, fmt.Errorf("%s: want {seg|…}", name)
		}
		if n.item, err = p.sequence(variable, depth); err != nil {
			return n, err
		}
		p.at++ // }
	}
	for p.blanks(); p.take(";"); p.blanks() {
		p.blanks()
		option := p.word()
		p.blanks()
		if !p.take("=") {
			return n, fmt.Errorf("%s: want %s=", name, option)
		}
		p.blanks()
		value, err := p.value()
		switch {
		case err != nil:
			return n, fmt.Errorf("%s: %w", name, err)
		case option == "separator" && lists[name]:
			n.separator = value
		case option == "format" && name == "TIMESTAMP":
			n.format = value
		default:
			return n, fmt.Errorf("%s: there is no option %q", name, option)
		}
	}
	if !p.take(">") {
		return n, fmt.Errorf("%s: want >", name)
	}
	return n, nil
}

// value is a quoted text, or the name of a sign.
func (p *parser) value() (string, error) {
	if !p.take(`"`) {
		name := p.word()
		if signs[name] == "" {
			return "", fmt.Errorf("%.40q is no quoted text and no sign", name)
		}
		return signs[name], nil
	}
	end := strings.IndexByte(p.s[p.at:], '"')
	if end < 0 {
		return "", errors.New("a quote has no end")
	}
	v := p.s[p.at : p.at+end]
	p.at += end + 1
	return v, nil
}

func (p *parser) condition(depth int) (n node, err error) {
	n.macro = "if"
	if !p.take("(") {
		return n, errors.New("want if(")
	}
	for {
		p.blanks()
		name := p.word()
		if !lists[name] {
			return n, fmt.Errorf("if: %.40q is no list", name)
		}
		n.when = append(n.when, name)
		p.blanks()
		if !p.take("&&") {
			break
		}
	}
	if !p.take(")") || !p.take(">") {
		return n, errors.New("if: want )>")
	}
	if n.then, err = p.sequence("", depth+1); err != nil {
		return n, err
	}
	p.at += len("<endif>")
	return n, nil
}

// Has reports whether a macro stands in the template.
func (t *Template) Has(macro string) bool { return has(t.nodes, macro) }

func has(nodes []node, macro string) bool {
	for i := range nodes {
		if nodes[i].macro == macro || has(nodes[i].item, macro) || has(nodes[i].then, macro) {
			return true
		}
	}
	return false
}

// Append appends what the template says of v.
func (t *Template) Append(dst []byte, v *Values) []byte { return appendNodes(dst, t.nodes, v, nil) }

func appendNodes(dst []byte, nodes []node, v *Values, m *Member) []byte {
	for i := range nodes {
		n := &nodes[i]
		switch n.macro {
		case "":
			dst = append(dst, n.text...)
		case "if":
			all := true
			for _, list := range n.when {
				all = all && n.length(list, v) > 0
			}
			if all {
				dst = appendNodes(dst, n.then, v, m)
			}
		case "SEGMENT_LIST", "TRAIT_LIST":
			dst = n.members(dst, v.In, v)
		case "REMOVED_SEGMENT_LIST":
			dst = n.members(dst, v.Out, v)
		case "DP_UUID_LIST", "DP_UUID", "UUID", "MCID":
			dst = append(dst, v.ID...)
		case "PID_ALIAS", "PIDALIAS":
			dst = append(dst, v.Account["PIDALIAS"]...)
		case "SYNC_MODE":
			dst = append(dst, v.Mode...)
		case "TIMESTAMP":
			dst = n.timestamp(dst, v)
		case "SPLITNUM":
			if v.Part > 0 {
				dst = fmt.Appendf(dst, "%03d", v.Part)
			}
		case "SET_ATTRIBUTES", "OUTPUT_ATTRIBUTE_VALUE":
			dst = append(dst, '1')
		case "OPT_OUT":
			dst = append(dst, '0')
		case ".sid":
			dst = append(dst, m.SID...)
		case ".alias":
			dst = append(dst, m.Alias...)
		case ".type":
			dst = append(dst, '5')
		case ".minutes":
			dst = strconv.AppendInt(dst, int64(m.Minutes), 10)
		case ".lastUpdateTime", ".lastRealizationTime":
			dst = strconv.AppendInt(dst, int64(v.Created), 10)
		default:
			dst = append(dst, v.Account[n.macro]...)
		}
	}
	return dst
}

func (n *node) length(list string, v *Values) int {
	switch list {
	case "REMOVED_SEGMENT_LIST":
		return len(v.Out)
	case "DP_UUID_LIST":
		return 1
	}
	return len(v.In)
}

func (n *node) members(dst []byte, list []Member, v *Values) []byte {
	for i := range list {
		if i > 0 {
			if n.separator == "" && n.item == nil {
				dst = append(dst, ',')
			}
			dst = append(dst, n.separator...)
		}
		if n.item == nil {
			dst = append(dst, list[i].SID...)
		} else {
			dst = appendNodes(dst, n.item, v, &list[i])
		}
	}
	return dst
}

func (n *node) timestamp(dst []byte, v *Values) []byte {
	at := v.Created.Time().UTC()
	if n.format == "" {
		if v.NameStamp != "" {
			return append(dst, v.NameStamp...)
		}
		return strconv.AppendInt(dst, at.Unix(), 10)
	}
	return append(dst, strings.NewReplacer(
		"YYYY", at.Format("2006"), "MM", at.Format("01"), "DD", at.Format("02"),
		"hh", at.Format("15"), "mm", at.Format("04"), "ss", at.Format("05"),
	).Replace(n.format)...)
}
