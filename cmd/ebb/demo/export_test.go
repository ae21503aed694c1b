package demo

// Holds is how many rows the partner has that have not ended.
func (p *FakeDSP) Holds() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.env.Now()
	for _, end := range p.members {
		if end.After(now) {
			n++
		}
	}
	return n
}
