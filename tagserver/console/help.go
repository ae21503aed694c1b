package console

import (
	"bytes"
	"fmt"
	"html/template"
	"io/fs"
	"path"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// helpPage is a page of help: Markdown that ships in the binary.
type helpPage struct {
	Slug, Title, Summary string
	Body                 template.HTML
}

// helpOrder is the order of the pages; every file is one of them.
var helpOrder = []string{"getting-started", "first-audience", "tag", "shops", "inspector", "consent", "audiences", "reports", "delivery", "retention", "operations", "access", "cluster", "glossary"}

// loadHelp renders the pages, once. They are ours, and raw HTML in them is left
// out all the same. The first heading is the title, the first paragraph the
// summary.
func loadHelp(files fs.FS) ([]helpPage, error) {
	md := goldmark.New(
		goldmark.WithExtensions(extension.Table),
		goldmark.WithParserOptions(parser.WithAutoHeadingID(), parser.WithASTTransformers(util.Prioritized(links{}, 100))),
	)
	known, err := fs.Glob(files, "help/*.md")
	if err != nil {
		return nil, err
	}
	if len(known) != len(helpOrder) {
		return nil, fmt.Errorf("read help: there are %d pages and %d have a place in the order", len(known), len(helpOrder))
	}
	var pages []helpPage
	for _, slug := range helpOrder {
		src, err := fs.ReadFile(files, "help/"+slug+".md")
		if err != nil {
			return nil, fmt.Errorf("read help: %w", err)
		}
		p := helpPage{Slug: slug}
		doc := md.Parser().Parse(text.NewReader(src))
		if h, ok := doc.FirstChild().(*ast.Heading); ok && h.Level == 1 {
			p.Title = plain(h, src)
			doc.RemoveChild(doc, h)
		}
		if first, ok := doc.FirstChild().(*ast.Paragraph); ok {
			p.Summary = plain(first, src)
		}
		if p.Title == "" || p.Summary == "" {
			return nil, fmt.Errorf("read help: %s.md does not begin with a title and a paragraph", slug)
		}
		var b bytes.Buffer
		if err := md.Renderer().Render(&b, src, doc); err != nil {
			return nil, fmt.Errorf("render help %s: %w", slug, err)
		}
		// Tables and code scroll by themselves on a narrow screen, and from the
		// keyboard.
		html := strings.NewReplacer(
			"<table>", `<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>`, "</table>", "</table></div>",
			"<th>", `<th scope="col">`, "<pre>", `<pre tabindex="0">`,
		).Replace(b.String())
		p.Body = template.HTML(html) // rendered from files of ours, without raw HTML
		pages = append(pages, p)
	}
	return pages, nil
}

// plain is the text of a node without marks.
func plain(n ast.Node, src []byte) string {
	var b strings.Builder
	// The walker returns only errors of the function, which has none.
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Segment.Value(src))
			if t.SoftLineBreak() {
				b.WriteByte(' ')
			}
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// links turns links between the files into links between the pages, so that
// both the repository and the console can be read.
type links struct{}

// Transform is parser.ASTTransformer.
func (links) Transform(doc *ast.Document, _ text.Reader, _ parser.Context) {
	// The walker returns only errors of the function, which has none.
	_ = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if l, ok := n.(*ast.Link); ok && entering {
			file, anchor, _ := strings.Cut(string(l.Destination), "#")
			if path.Ext(file) == ".md" && !strings.Contains(file, "/") {
				file = base + "/help/" + strings.TrimSuffix(file, ".md")
				if anchor != "" {
					file += "#" + anchor
				}
				l.Destination = []byte(file)
			}
		}
		return ast.WalkContinue, nil
	})
}

func (c *Console) helpIndex(echo.Context) (*page, error) {
	return &page{Template: "help", Title: "Help", Section: base + "/help", Data: c.help}, nil
}

func (c *Console) helpPage(e echo.Context) (*page, error) {
	for i := range c.help {
		if c.help[i].Slug == e.Param("page") {
			return &page{Template: "helppage", Title: c.help[i].Title, Section: base + "/help", Data: struct {
				helpPage
				All []helpPage
			}{c.help[i], c.help}}, nil
		}
	}
	return nil, errNothing
}
