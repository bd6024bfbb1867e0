// One call of a Pion client: ../README.md says what it is asked, what it does and what it prints.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
)

const (
	calls    = "/v1/realtime/calls"
	frames   = 50
	binSize  = 100_000
	patience = 15 * time.Second
	text     = "grüß dich, 世界"
)

type facts struct {
	Client   string  `json:"client"`
	Setup    string  `json:"setup"`
	SetupMS  float64 `json:"setup_ms"`
	Sent     int64   `json:"sent"`
	Back     int64   `json:"back"`
	Foreign  int64   `json:"foreign"`
	Text     bool    `json:"text"`
	Binary   bool    `json:"binary"`
	Ended    string  `json:"ended"`
	Location string  `json:"location"`
}

type call struct {
	url       string
	pc        *webrtc.PeerConnection
	track     *webrtc.TrackLocalStaticSample
	channel   *webrtc.DataChannel
	once      sync.Once
	connected chan struct{}
	echoed    chan struct{}
	ended     chan string
	opened    chan struct{}
	messages  chan webrtc.DataChannelMessage
	facts     facts
}

func main() {
	setup := flag.String("setup", "actpass", "a=setup of the offer")
	end := flag.String("end", "close", "close or hangup")
	restart := flag.Bool("restart", false, "restart ICE in between")
	flag.Parse()
	one := &call{
		url: flag.Arg(0), connected: make(chan struct{}), echoed: make(chan struct{}), ended: make(chan string, 8),
		opened: make(chan struct{}), messages: make(chan webrtc.DataChannelMessage, 8),
	}
	one.facts.Client = "Pion webrtc " + version()
	if err := one.run(*setup, *end, *restart); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(one.facts)
}

func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "github.com/pion/webrtc/v4" {
			return module.Version
		}
	}
	return "of unknown version"
}

func (c *call) run(setup, end string, restart bool) error {
	if err := c.prepare(); err != nil {
		return err
	}
	began := time.Now()
	if err := c.signal(setup); err != nil {
		return err
	}
	if err := within("connected", c.connected); err != nil {
		return err
	}
	c.facts.SetupMS = float64(time.Since(began).Microseconds()) / 1e3
	stop := make(chan struct{})
	go c.speak(stop)
	defer close(stop)
	if err := within("open channel", c.opened); err != nil {
		return err
	}
	if err := c.echo(); err != nil {
		return err
	}
	if err := within("audio", c.echoed); err != nil {
		return err
	}
	if restart {
		if err := c.restart(); err != nil {
			return err
		}
	}
	return c.finish(end)
}

// On loopback alone; otherwise as Pion has it.
func (c *call) prepare() (err error) {
	engine := webrtc.SettingEngine{}
	engine.SetIncludeLoopbackCandidate(true)
	engine.SetIPFilter(func(address net.IP) bool { return address.IsLoopback() })
	engine.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	if c.pc, err = webrtc.NewAPI(webrtc.WithSettingEngine(engine)).NewPeerConnection(webrtc.Configuration{}); err != nil {
		return err
	}
	opus := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}
	if c.track, err = webrtc.NewTrackLocalStaticSample(opus, "audio", "interop"); err != nil {
		return err
	}
	if _, err = c.pc.AddTrack(c.track); err != nil {
		return err
	}
	if c.channel, err = c.pc.CreateDataChannel("oai-events", nil); err != nil {
		return err
	}
	c.channel.OnOpen(func() { close(c.opened) })
	c.channel.OnClose(func() { c.ended <- "channel closed" })
	c.channel.OnMessage(func(message webrtc.DataChannelMessage) { c.messages <- message })
	c.pc.OnTrack(func(track *webrtc.TrackRemote, _ *webrtc.RTPReceiver) { c.hear(track) })
	c.pc.OnConnectionStateChange(func(state webrtc.PeerConnectionState) {
		switch state {
		case webrtc.PeerConnectionStateConnected:
			c.once.Do(func() { close(c.connected) }) // an ICE restart says it again
		case webrtc.PeerConnectionStateClosed, webrtc.PeerConnectionStateFailed:
			c.ended <- state.String()
		}
	})
	return nil
}

func (c *call) signal(setup string) error {
	sdp, err := c.offer(nil)
	if err != nil {
		return err
	}
	status, answer, location, err := post(c.url+calls, strings.ReplaceAll(sdp, "a=setup:actpass", "a=setup:"+setup))
	if err != nil || status != http.StatusCreated {
		return fmt.Errorf("offer: status %d, %s %w", status, answer, err)
	}
	c.facts.Location = location
	c.facts.Setup = regexp.MustCompile(`a=setup:(\w+)`).FindStringSubmatch(answer)[1]
	return c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer})
}

// An offer with all candidates in it.
func (c *call) offer(options *webrtc.OfferOptions) (string, error) {
	offer, err := c.pc.CreateOffer(options)
	if err != nil {
		return "", err
	}
	gathered := webrtc.GatheringCompletePromise(c.pc)
	if err = c.pc.SetLocalDescription(offer); err != nil {
		return "", err
	}
	<-gathered
	return c.pc.LocalDescription().SDP, nil
}

// New credentials and new addresses, while frames go on; as many again have to come back, and the messages.
func (c *call) restart() error {
	sdp, err := c.offer(&webrtc.OfferOptions{ICERestart: true})
	if err != nil {
		return err
	}
	status, answer, _, err := post(c.url+c.facts.Location, sdp)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("restart: status %d, %s %w", status, answer, err)
	}
	before := atomic.LoadInt64(&c.facts.Back)
	if err = c.pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: answer}); err != nil {
		return err
	}
	for end := time.Now().Add(patience); atomic.LoadInt64(&c.facts.Back) < before+frames; {
		if time.Now().After(end) {
			return fmt.Errorf("no audio after the restart: %+v", c.facts)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return c.echo()
}

func post(url, body string) (status int, text, location string, err error) {
	response, err := http.Post(url, "application/sdp", strings.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, string(content), response.Header.Get("Location"), err
}

// A frame every 20 ms, each unlike all others: Opus's TOC byte and a count.
func frame(count uint64) []byte { return binary.BigEndian.AppendUint64([]byte{0xf8, 'i', 'o'}, count) }

func (c *call) speak(stop chan struct{}) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			count := atomic.AddInt64(&c.facts.Sent, 1)
			_ = c.track.WriteSample(media.Sample{Data: frame(uint64(count)), Duration: 20 * time.Millisecond})
		}
	}
}

// Frames come back in order and as they were.
func (c *call) hear(track *webrtc.TrackRemote) {
	last := int64(0)
	for {
		packet, _, err := track.ReadRTP()
		if err != nil {
			return
		}
		if len(packet.Payload) != 11 || !bytes.Equal(packet.Payload[:3], []byte{0xf8, 'i', 'o'}) {
			c.facts.Foreign++
			continue
		}
		if count := int64(binary.BigEndian.Uint64(packet.Payload[3:])); count > last {
			last = count
			if atomic.AddInt64(&c.facts.Back, 1) == frames {
				close(c.echoed)
			}
		} else {
			c.facts.Foreign++
		}
	}
}

func (c *call) echo() error {
	if err := c.channel.SendText(text); err != nil {
		return err
	}
	message, err := c.message()
	c.facts.Text = message.IsString && string(message.Data) == text
	if err != nil {
		return err
	}
	sent := make([]byte, binSize)
	_, _ = rand.Read(sent)
	if err = c.channel.Send(sent); err != nil {
		return err
	}
	message, err = c.message()
	c.facts.Binary = !message.IsString && bytes.Equal(message.Data, sent)
	return err
}

func (c *call) message() (message webrtc.DataChannelMessage, err error) {
	select {
	case message = <-c.messages:
	case <-time.After(patience):
		err = fmt.Errorf("no message came back")
	}
	return message, err
}

// Its own goodbye, or the server's.
func (c *call) finish(end string) error {
	if end == "close" {
		c.facts.Ended = "closed"
		return c.pc.GracefulClose()
	}
	if status, _, _, err := post(c.url+c.facts.Location+"/hangup", ""); err != nil || status != http.StatusOK {
		return fmt.Errorf("hangup: status %d %w", status, err)
	}
	select {
	case c.facts.Ended = <-c.ended:
		return c.pc.Close()
	case <-time.After(patience):
		return fmt.Errorf("it never learned that it was hung up")
	}
}

func within(what string, done chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s: not within %s", what, patience)
	}
}
