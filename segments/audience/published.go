package audience

import "github.com/ebb-dmp/ebb/taxonomy"

// Published returns the audiences of a visitor that its page may read by the
// generation alone, by ID: what Seg corrects.
func (s *PageState) Published(v taxonomy.VisitorKey) (ids []taxonomy.AudienceID) {
	shard, ordinal, ok := s.Ordinals.Ordinal(v)
	if !ok {
		return nil
	}
	for _, n := range s.Pages.Of(shard, ordinal) {
		if s.shown[n] {
			ids = append(ids, s.Pages.ID(n))
		}
	}
	return ids
}
